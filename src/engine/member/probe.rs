//! Tells data that no compressor makes smaller, cheaply: deflate is at its slowest there.

/// The bytes that are counted of one member: sixteen pieces of 1 KiB spread over it.
const SAMPLES: usize = 16;
const SAMPLE: usize = 1 << 10;
/// Bits of entropy in a byte from which a trial is worth its time. The sample's own noise takes
/// about 0.011 from the 8 bits of random data; text has 4 to 5, machine code about 6.
const SUSPICIOUS: f64 = 7.85;
/// How much of a member is really compressed to be sure.
const TRIAL: usize = 32 << 10;
/// After so many members that were stored on the count alone the next one is tried again.
const TRIAL_EVERY: u32 = 8;

/// The state of one worker's probing.
pub(super) struct Probe {
    trial: libdeflater::Compressor,
    output: Vec<u8>,
    /// Members in a row that were stored since the last trial; nothing if the last was not.
    stored: Option<u32>,
}

impl Probe {
    pub(super) fn new() -> Self {
        Self { trial: super::deflate(1), output: Vec::new(), stored: None }
    }

    /// Whether compressing would not gain one part in sixty.
    pub(super) fn is_incompressible(&mut self, raw: &[u8]) -> bool {
        if raw.len() < 2 * SAMPLES * SAMPLE || entropy(raw) < SUSPICIOUS {
            self.stored = None;
            return false;
        }
        if let Some(count) = self.stored
            && count < TRIAL_EVERY
        {
            self.stored = Some(count + 1);
            return true;
        }
        let start = (raw.len() - TRIAL) / 2;
        let piece = &raw[start..start + TRIAL];
        let bound = self.trial.deflate_compress_bound(piece.len());
        self.output.resize(bound, 0);
        let length = self.trial.deflate_compress(piece, &mut self.output).unwrap_or(TRIAL);
        let stored = length >= TRIAL - TRIAL / 60;
        self.stored = stored.then_some(0);
        stored
    }
}

/// Shannon entropy of the sampled bytes, in bits a byte.
fn entropy(raw: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    let step = (raw.len() - SAMPLE) / (SAMPLES - 1);
    for sample in 0..SAMPLES {
        let start = sample * step;
        for byte in &raw[start..start + SAMPLE] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let total = f64::from(u32::try_from(SAMPLES * SAMPLE).unwrap_or(u32::MAX));
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum()
}
