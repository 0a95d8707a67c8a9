//! Removing images, and throwing away what no name needs.

use std::collections::HashSet;
use std::fs;

use super::error::StoreError;
use super::lock::Lock;
use super::roots::lock_of;
use super::{Store, find};
use crate::digest::Digest;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names.
    pub names: Vec<String>,
    /// Names that stay because a pod uses their image.
    pub in_use: Vec<String>,
    /// Blobs.
    pub blobs: usize,
    /// Bytes of blobs.
    pub bytes: u64,
    /// Unpacked images.
    pub roots: usize,
    /// Another process brings or reads blobs, so all of them were kept.
    pub busy: bool,
}

impl Store {
    /// Removes a name, and the image if it has no other.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], and [`StoreError::InUse`] when a pod uses
    /// the image.
    pub fn remove(&self, text: &str) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();
        let root = self.names.update(|records| {
            let record = find(records, text)?.clone();
            records.retain(|known| *known != record);
            freed.names.push(record.name.clone());
            if records
                .iter()
                .any(|known| known.chain_id == record.chain_id)
            {
                return Ok(None);
            }
            let root = self.take_root(record.chain_id)?;
            root.map(Some).ok_or(StoreError::InUse(record.name))
        })?;
        freed.roots = usize::from(root.as_ref().is_some_and(|root| root.was_there()));
        drop(root);
        self.collect(false, &mut freed)?;
        Ok(freed)
    }

    /// Throws away what no name needs; with `all`, also all images that no pod uses.
    ///
    /// # Errors
    /// [`StoreError`] when something cannot be removed.
    pub fn prune(&self, all: bool) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();
        if all {
            let roots = self.names.update(|records| {
                let mut roots = Vec::new();
                for record in std::mem::take(records) {
                    // Two names may have one root: the second finds it taken already.
                    if let Some(root) = self.take_root(record.chain_id)? {
                        freed.names.push(record.name);
                        roots.push(root);
                    } else {
                        freed.in_use.push(record.name.clone());
                        records.push(record);
                    }
                }
                Ok(roots)
            })?;
            freed.roots = roots.iter().filter(|root| root.was_there()).count();
        }
        self.collect(true, &mut freed)?;
        Ok(freed)
    }

    /// Throws away blobs and roots that no name needs and, with `partial`, those that are half there.
    fn collect(&self, partial: bool, freed: &mut Freed) -> Result<(), StoreError> {
        let path = self.dir.join("busy.lock");
        let lock = Lock::try_exclusive(&path).map_err(StoreError::io(path, "locked"))?;
        let Some(_lock) = lock else {
            freed.busy = true;
            return Ok(());
        };
        let records = self.names.load()?;
        let mut needed = HashSet::new();
        for record in &records {
            needed.extend([record.manifest.digest, record.id]);
            // A damaged manifest keeps nothing: it has to be pulled again in any case.
            let bytes = self.blobs.read(&record.manifest).ok().flatten();
            let manifest = bytes.and_then(|bytes| self.manifest(&record.manifest, &bytes).ok());
            let layers = manifest.into_iter().flat_map(|manifest| manifest.layers);
            needed.extend(layers.map(|layer| layer.digest));
        }
        for (digest, size) in self.blobs.all()? {
            if !needed.contains(&digest) {
                self.blobs.remove(digest)?;
                freed.blobs += 1;
                freed.bytes += size;
            }
        }
        let chains: HashSet<_> = records.iter().map(|record| record.chain_id).collect();
        for chain_id in self.roots()? {
            if !chains.contains(&chain_id)
                && let Some(root) = self.take_root(chain_id)?
            {
                freed.roots += usize::from(root.was_there());
            }
        }
        // Nobody makes or brings anything now, so what is there was left behind.
        self.empty("tmp")?;
        if partial {
            self.empty("partial")?;
        }
        Ok(())
    }

    /// The chain ids of all roots and of all locks for them.
    fn roots(&self) -> Result<HashSet<Digest>, StoreError> {
        let dir = self.dir.join("roots");
        let listing = fs::read_dir(&dir).map_err(StoreError::io(&dir, "listed"))?;
        let roots = listing.filter_map(|entry| {
            let path = entry.ok()?.path();
            debug_assert_eq!(lock_of(&path).parent(), path.parent());
            Digest::from_hex(path.file_stem()?.to_str()?)
        });
        Ok(roots.collect())
    }

    fn empty(&self, name: &str) -> Result<(), StoreError> {
        let dir = self.dir.join(name);
        for entry in fs::read_dir(&dir).map_err(StoreError::io(&dir, "listed"))? {
            let entry = entry.map_err(StoreError::io(&dir, "listed"))?;
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_dir {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                // Whoever took a root away removes it meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(StoreError::io(&path, "removed"))?,
            }
        }
        Ok(())
    }
}
