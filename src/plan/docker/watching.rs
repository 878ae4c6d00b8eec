//! How services fare, in the words of the records. Pure: from what the engine says to words.

use jiff::Timestamp;

use super::facts::{ContainerFacts, RunState};

/// One container as it was seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sighting {
    /// The container.
    pub container: ContainerFacts,
    /// What its health check says; none without one.
    pub health: Option<Health>,
    /// How it ended last.
    pub exit_code: i64,
    /// It was killed because it needed too much memory.
    pub out_of_memory: bool,
    /// How often the engine has started it again.
    pub restarts: i64,
    /// When it was started last; none if it never was.
    pub started_at: Option<Timestamp>,
    /// Whether its restart policy says that it is to run.
    pub is_to_run: bool,
    /// What it uses; none if it does not run or nobody asked.
    pub usage: Option<Usage>,
}

/// What a health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not yet known.
    Starting,
    /// Well.
    Healthy,
    /// Not well.
    Unhealthy,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Time of processors since it was started, in nanoseconds.
    pub processor_nanoseconds: u64,
    /// When that was read.
    pub at: Timestamp,
    /// Bytes of memory, without what the kernel could drop.
    pub memory_bytes: u64,
    /// Bytes that came over its networks since it was started.
    pub received_bytes: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
}

impl Usage {
    /// Percent of one processor since an earlier look; none if it was started in between.
    pub fn processor_percent(&self, earlier: &Self) -> Option<f64> {
        let used = self.processor_nanoseconds.checked_sub(earlier.processor_nanoseconds)?;
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // A percentage of a few digits.
        (seconds > 0.0).then(|| used as f64 / 1e7 / seconds)
    }
}

impl Sighting {
    /// `running`, `starting`, `stopped` or `error`, and what is wrong.
    pub fn status(&self) -> (&'static str, Option<String>) {
        match self.container.state {
            RunState::Running if self.health == Some(Health::Starting) => ("starting", None),
            RunState::Running => ("running", None),
            RunState::Paused => ("stopped", Some("paused".to_owned())),
            RunState::Restarting => {
                ("error", Some(format!("started again {} times", self.restarts)))
            }
            RunState::Stopped if self.out_of_memory => {
                ("error", Some("killed: out of memory".to_owned()))
            }
            RunState::Stopped => match self.exit_code {
                0 | 143 => ("stopped", None),
                137 => ("stopped", Some("killed".to_owned())),
                code => ("error", Some(format!("ended with code {code}"))),
            },
        }
    }

    /// `healthy`, `unhealthy` or `unknown`.
    pub fn health_word(&self) -> &'static str {
        match self.health {
            Some(Health::Healthy) => "healthy",
            Some(Health::Unhealthy) => "unhealthy",
            _ => "unknown",
        }
    }

    /// Whether it does what it is to do: it runs and is not ill, or it has done its work and ended.
    fn is_well(&self) -> bool {
        match self.container.state {
            RunState::Running => self.health != Some(Health::Unhealthy),
            RunState::Paused | RunState::Restarting => false,
            RunState::Stopped => {
                self.started_at.is_none() || (self.exit_code == 0 && !self.is_to_run)
            }
        }
    }
}

/// Whether a service of several containers is up; nobody knows without a container that was ever
/// started.
pub fn is_up(sightings: &[&Sighting]) -> Option<bool> {
    let known = sightings.iter().any(|one| one.started_at.is_some());
    known.then(|| sightings.iter().all(|one| one.is_well()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: RunState, health: Option<Health>, exit_code: i64) -> Sighting {
        Sighting {
            container: ContainerFacts { state, ..ContainerFacts::default() },
            health,
            exit_code,
            started_at: Some(Timestamp::UNIX_EPOCH),
            ..Sighting::default()
        }
    }

    #[test]
    fn states_have_their_words() {
        let words = |sighting: Sighting| {
            (sighting.status().0, sighting.health_word(), sighting.status().1.is_some())
        };
        let running = RunState::Running;
        assert_eq!(words(seen(running, None, 0)), ("running", "unknown", false));
        let starting = seen(running, Some(Health::Starting), 0);
        assert_eq!(words(starting), ("starting", "unknown", false));
        let ill = seen(running, Some(Health::Unhealthy), 0);
        assert_eq!(words(ill), ("running", "unhealthy", false));
        assert_eq!(words(seen(RunState::Stopped, None, 0)), ("stopped", "unknown", false));
        assert_eq!(words(seen(RunState::Stopped, None, 2)), ("error", "unknown", true));
        assert_eq!(words(seen(RunState::Restarting, None, 1)), ("error", "unknown", true));
    }

    #[test]
    fn a_service_is_up_when_everybody_does_what_they_are_to_do() {
        let web = seen(RunState::Running, None, 0);
        let migration = seen(RunState::Stopped, None, 0);
        let never = Sighting { started_at: None, ..seen(RunState::Stopped, None, 0) };
        assert_eq!(is_up(&[&web, &migration, &never]), Some(true));
        let stopped = Sighting { is_to_run: true, ..migration.clone() };
        assert_eq!(is_up(&[&web, &stopped]), Some(false));
        let failed = seen(RunState::Stopped, None, 1);
        assert_eq!(is_up(&[&web, &failed]), Some(false));
        assert_eq!(is_up(&[&seen(RunState::Restarting, None, 1)]), Some(false));
        assert_eq!(is_up(&[&never]), None);
    }

    #[test]
    fn processor_time_is_told_per_second_and_not_across_a_start() {
        let usage = |nanoseconds, second| Usage {
            processor_nanoseconds: nanoseconds,
            at: Timestamp::from_second(second).unwrap(),
            ..Usage::default()
        };
        let percent = usage(4_000_000_000, 30).processor_percent(&usage(1_000_000_000, 0));
        assert_eq!(percent, Some(10.0));
        assert_eq!(usage(1, 30).processor_percent(&usage(2, 0)), None);
    }
}
