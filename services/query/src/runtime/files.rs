//! The files of a projection: one SQLite file for each generation, `<name>.g<N>.db`, and a pointer
//! file, `<name>.live`, that says which of them is served. The pointer is replaced atomically, so
//! that a crash at any moment leaves either the old generation or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The names of the files of one projection.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
    name: &'static str,
    /// The highest number that was given to a generation.
    given: Arc<AtomicU64>,
}

impl Files {
    pub fn new(dir: &Path, name: &'static str) -> Self {
        Self { dir: dir.to_owned(), name, given: Arc::default() }
    }

    /// The database of a generation.
    pub fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("{}.g{generation}.db", self.name))
    }

    fn pointer(&self) -> PathBuf {
        self.dir.join(format!("{}.live", self.name))
    }

    fn pause_mark(&self) -> PathBuf {
        self.dir.join(format!("{}.paused", self.name))
    }

    /// The generation that is served, if there is one.
    pub fn live(&self) -> io::Result<Option<u64>> {
        match fs::read_to_string(self.pointer()) {
            // A pointer that nobody can read is as good as none: the projection is built anew.
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a generation the one that is served. When this returns, it holds over a power
    /// failure, given that the database itself is on the disk.
    pub fn set_live(&self, generation: u64) -> io::Result<()> {
        File::open(self.path(generation))?.sync_all()?;
        let tmp = self.dir.join(format!("{}.live.tmp", self.name));
        let mut file = File::create(&tmp)?;
        writeln!(file, "{generation}")?;
        file.sync_all()?;
        fs::rename(&tmp, self.pointer())?;
        self.sync_dir()
    }

    /// The generations that have a file, and the next number.
    fn generations(&self) -> io::Result<(Vec<u64>, u64)> {
        let mut found = Vec::new();
        let prefix = format!("{}.g", self.name);
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(&prefix)) else { continue };
            let number = rest.split_once(".db").and_then(|(number, _)| number.parse::<u64>().ok());
            found.extend(number);
        }
        found.sort_unstable();
        found.dedup();
        let highest = found.last().copied().unwrap_or(0).max(self.live()?.unwrap_or(0));
        Ok((found, highest + 1))
    }

    /// A number that no generation with a file has, nor one of this process: what was given up may
    /// still be at work on its file for a moment.
    pub fn next_generation(&self) -> io::Result<u64> {
        let free = self.generations()?.1;
        let given = |last: u64| Some(free.max(last + 1));
        let last = self.given.fetch_update(Ordering::SeqCst, Ordering::SeqCst, given);
        Ok(free.max(last.unwrap_or_default() + 1))
    }

    /// Removes what interrupted rebuilds have left: every generation but the live one.
    pub fn sweep(&self) -> io::Result<()> {
        let live = self.live()?;
        for generation in self.generations()?.0 {
            if Some(generation) != live {
                self.remove(generation)?;
            }
        }
        Ok(())
    }

    /// Removes the files of a generation.
    pub fn remove(&self, generation: u64) -> io::Result<()> {
        let path = self.path(generation);
        for suffix in ["-wal", "-shm", ""] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            match fs::remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether an operator has paused the projection.
    pub fn paused(&self) -> io::Result<bool> {
        self.pause_mark().try_exists()
    }

    /// Keeps over restarts whether the projection is paused.
    pub fn set_paused(&self, paused: bool) -> io::Result<()> {
        if paused {
            File::create(self.pause_mark())?.sync_all()?;
        } else if self.paused()? {
            fs::remove_file(self.pause_mark())?;
        }
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_names_the_live_generation_and_the_others_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "sums");
        assert_eq!(files.live().unwrap(), None);
        assert_eq!(files.next_generation().unwrap(), 1);
        for generation in [1, 2, 3] {
            fs::write(files.path(generation), "").unwrap();
            fs::write(files.path(generation).with_extension("db-wal"), "").unwrap();
        }
        fs::write(dir.path().join("sums_of_sums.g1.db"), "").unwrap();
        files.set_live(2).unwrap();
        assert_eq!(files.next_generation().unwrap(), 4);
        assert_eq!(files.next_generation().unwrap(), 5, "4 may still be at work");
        files.sweep().unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["sums.g2.db", "sums.g2.db-wal", "sums.live", "sums_of_sums.g1.db"]);
    }

    #[test]
    fn a_pause_is_kept_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "sums");
        for paused in [false, true, true, false, false] {
            files.set_paused(paused).unwrap();
            assert_eq!(files.paused().unwrap(), paused);
        }
    }
}
