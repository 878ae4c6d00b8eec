//! The first reading of an archive: everything that can be refused is refused here.

use std::collections::{HashMap, HashSet};

use super::UnpackOptions;
use super::names::{Key, Position, Selector, ancestors, clean, key};
use crate::engine::archive::Archive;
use crate::engine::entry::{EntryInfo, EntryKind};
use crate::engine::error::EngineError;
use crate::engine::progress::Cancel;

/// What the second reading has to know.
pub(super) struct Plan {
    pub selector: Selector,
    /// Entries that will be put in place.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Directories above selected entries: they get their attributes even if not selected.
    pub above_selected: HashSet<Key>,
    /// Files that hard links name, and that have to be found again when the link comes.
    pub link_targets: HashSet<Key>,
    /// Files that are not selected, but a selected link to them is: the link's place gets the data.
    pub stand_ins: HashMap<Key, Position>,
    /// Hard links by name, with the file that is at the end of the chain.
    pub links: HashMap<Key, Key>,
    /// Files that come more than once; the last one counts.
    pub repeated: HashSet<Key>,
    /// Destinations that are a single file.
    pub single_files: HashSet<usize>,
}

/// What is known of a name so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Entry(EntryKind),
    /// A directory only because something lies in it.
    Implied,
}

impl Plan {
    /// Where an entry goes, if it is to be unpacked at all.
    pub(super) fn place(
        &self,
        archive: &str,
        info: &EntryInfo,
    ) -> Result<Option<(Key, Position)>, EngineError> {
        let name = clean(archive, &info.name)?;
        let name_key = key(&name);
        let directory = info.kind == EntryKind::Directory;
        let position = self.selector.position(&name);
        let selected = position
            .as_ref()
            .is_some_and(|position| self.selector.selects(&name, position, directory));
        let position = match (position, self.stand_ins.get(&name_key)) {
            (Some(position), _) if selected => position,
            (Some(position), _) if directory && self.above_selected.contains(&name_key) => position,
            (_, Some(stand_in)) if info.kind != EntryKind::HardLink => stand_in.clone(),
            _ => return Ok(None),
        };
        Ok(Some((name_key, position)))
    }
}

/// Looks at every entry and refuses the archive if anything in it is not safe to write. Of an archive
/// with an index that is what the index says; what is written is compared with it.
pub(super) fn check(
    archive: &Archive,
    options: &UnpackOptions,
    cancel: &Cancel,
) -> Result<Plan, EngineError> {
    let mut checker = Checker::new(&archive.label, options)?;
    if let Some(index) = &archive.index {
        checker.is_indexed = true;
        archive.visit_index(index, &mut |entry| {
            cancel.check()?;
            checker.entry(&entry.info)
        })?;
        return Ok(checker.plan);
    }
    let mut reader = archive.stream()?;
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        checker.entry(&entry.info)?;
    }
    Ok(checker.plan)
}

pub(super) struct Checker<'a> {
    archive: String,
    options: &'a UnpackOptions,
    /// An index has every name once; in the stream of another program the last of a name counts.
    is_indexed: bool,
    seen: HashMap<Key, Seen>,
    selected: HashSet<Key>,
    total_entries: u64,
    total_bytes: u64,
    plan: Plan,
}

impl<'a> Checker<'a> {
    pub(super) fn new(archive: &str, options: &'a UnpackOptions) -> Result<Self, EngineError> {
        Ok(Self {
            archive: archive.to_owned(),
            options,
            is_indexed: false,
            seen: HashMap::new(),
            total_bytes: 0,
            plan: Plan {
                selector: Selector::new(options)?,
                entries: 0,
                bytes: 0,
                above_selected: HashSet::new(),
                link_targets: HashSet::new(),
                stand_ins: HashMap::new(),
                links: HashMap::new(),
                repeated: HashSet::new(),
                single_files: HashSet::new(),
            },
            total_entries: 0,
            selected: HashSet::new(),
        })
    }

    pub(super) fn into_plan(self) -> Plan {
        self.plan
    }

    /// Whether the name is another entry's, or a directory's that something lies in.
    pub(super) fn knows(&self, info: &EntryInfo) -> bool {
        let Ok(name) = clean(&self.archive, &info.name) else { return false };
        match self.seen.get(&key(&name)) {
            None => false,
            Some(Seen::Implied) => info.kind != EntryKind::Directory,
            Some(Seen::Entry(_)) => true,
        }
    }

    /// Looks at the next entry.
    pub(super) fn entry(&mut self, info: &EntryInfo) -> Result<(), EngineError> {
        self.count(info)?;
        let name = clean(&self.archive, &info.name)?;
        if name.is_empty() && info.kind != EntryKind::Directory {
            return Err(self.refuse(info, "it would replace its destination"));
        }
        if info.kind.is_device() && !self.options.allow_devices {
            return Err(self.refuse(info, "it is a device, and devices are not allowed here"));
        }
        self.place(info, &name)?;
        let target = match (info.kind, &info.link_target) {
            (EntryKind::HardLink, Some(target)) => Some(self.link_target(info, &name, target)?),
            (EntryKind::Symlink, Some(target)) if target.is_empty() || target.contains(&0) => {
                return Err(self.refuse(info, "its target is not a path"));
            }
            _ => None,
        };
        let Some(position) = self.plan.selector.position(&name) else { return Ok(()) };
        let directory = info.kind == EntryKind::Directory;
        if position.1.is_empty() && !directory {
            self.plan.single_files.insert(position.0);
        }
        if !self.plan.selector.selects(&name, &position, directory) {
            return Ok(());
        }
        self.plan.entries += 1;
        self.plan.bytes = self.plan.bytes.saturating_add(info.size);
        if !self.plan.selector.takes_everything() {
            self.plan.above_selected.extend(ancestors(&name).map(key));
        }
        if let Some(target) = target
            && !self.selected.contains(&target)
        {
            // Its data has to come from an entry that is not unpacked itself.
            self.plan.stand_ins.entry(target).or_insert(position);
        }
        if matches!(info.kind, EntryKind::File | EntryKind::HardLink) || info.link_target.is_some()
        {
            self.selected.insert(key(&name));
        }
        Ok(())
    }

    fn count(&mut self, info: &EntryInfo) -> Result<(), EngineError> {
        self.total_entries += 1;
        self.total_bytes = self.total_bytes.saturating_add(info.size);
        let limits = self.options.limits;
        if limits.entries.is_some_and(|limit| self.total_entries > limit)
            || limits.bytes.is_some_and(|limit| self.total_bytes > limit)
        {
            return Err(self.refuse(info, "the archive holds more than it should"));
        }
        Ok(())
    }

    /// One name is one thing, and what has something in it is a directory.
    fn place(&mut self, info: &EntryInfo, name: &[u8]) -> Result<(), EngineError> {
        for above in ancestors(name) {
            match self.seen.get(&key(above)) {
                None => {
                    self.seen.insert(key(above), Seen::Implied);
                }
                // What is above a known directory has been looked at already.
                Some(Seen::Implied | Seen::Entry(EntryKind::Directory)) => break,
                Some(Seen::Entry(kind)) => {
                    let detail = format!("it lies beneath a {}", kind.as_str());
                    return Err(self.refuse(info, &detail));
                }
            }
        }
        match (self.seen.insert(key(name), Seen::Entry(info.kind)), info.kind) {
            (None, _)
            | (Some(Seen::Implied | Seen::Entry(EntryKind::Directory)), EntryKind::Directory) => {
                Ok(())
            }
            (Some(Seen::Entry(EntryKind::File)), EntryKind::File) if !self.is_indexed => {
                self.plan.repeated.insert(key(name));
                Ok(())
            }
            (Some(_), _) => Err(self.refuse(info, "the name is already another entry's")),
        }
    }

    fn link_target(
        &mut self,
        info: &EntryInfo,
        name: &[u8],
        target: &[u8],
    ) -> Result<Key, EngineError> {
        let Ok(target) = clean(&self.archive, target) else {
            return Err(self.refuse(info, "it is a hard link out of the archive"));
        };
        let target_key = key(&target);
        match self.seen.get(&target_key) {
            Some(Seen::Entry(kind)) if *kind != EntryKind::Directory && target != name => {
                let end = self.plan.links.get(&target_key).copied().unwrap_or(target_key);
                self.plan.links.insert(key(name), end);
                self.plan.link_targets.insert(end);
                Ok(end)
            }
            _ => Err(self.refuse(info, "it is a hard link to no earlier file of the archive")),
        }
    }

    fn refuse(&self, info: &EntryInfo, detail: &str) -> EngineError {
        EngineError::unsafe_entry(&self.archive, &info.name, detail)
    }
}
