//! The file behind the store: objects by key, and the revision, in a redb database.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde_json::Value;

use super::{Key, Object, StoreError};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";

/// As many revisions are lost by a crash at most.
const LEAP: u64 = 1000;

/// The file, open unless the last write failed.
pub(super) struct Disk {
    path: PathBuf,
    /// None after a failure, which redb does not go on from: the file is opened anew for the next write.
    database: Option<Database>,
    /// The object whose write failed, as it is without that write: whether the file has the write is not known.
    unsure: Option<(Key, Option<Value>)>,
    /// The last revision that this process made durable.
    durable: u64,
}

/// What a file holds.
#[derive(Default)]
pub(super) struct Content {
    pub objects: Vec<Object>,
    pub revision: u64,
}

impl Disk {
    /// Opens or creates the file at `path` (mode 0600) and reads it.
    pub(super) fn open(path: &Path) -> Result<(Self, Content), StoreError> {
        let database = open(path)?;
        let content = read(&database).map_err(|error| failure(path, error))?;
        let path = path.to_owned();
        let damaged = |key: &str| StoreError::Damaged {
            path: path.display().to_string(),
            why: format!("{} is not an object in JSON", key.replace('\0', " ")),
        };
        let mut objects = Vec::with_capacity(content.len());
        for (key, bytes) in &content {
            objects.push(decode(key, bytes).ok_or_else(|| damaged(key))?);
        }
        let counted = counter(&database).map_err(|error| failure(&path, error))?;
        let known = objects.iter().map(|object| object.revision).chain([counted]).max().unwrap_or_default();
        // A client may have seen a later one before a crash. None is given twice.
        let revision = if known == 0 { 0 } else { known + LEAP };
        Ok((Self { path, database: Some(database), unsure: None, durable: 0 }, Content { objects, revision }))
    }

    /// Writes one object, or its removal, in one transaction. `old` is what was at its place.
    pub(super) fn write(
        &mut self,
        key: &Key,
        old: Option<&Value>,
        new: Option<&Value>,
        revision: u64,
    ) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.open_again(revision)?,
        };
        let durable = self.must_last(key, revision);
        match commit(&database, key, new, revision, durable) {
            Ok(()) => {
                self.database = Some(database);
                if durable {
                    self.durable = revision;
                }
                Ok(())
            }
            Err(error) => {
                self.unsure = Some((key.clone(), old.cloned()));
                Err(failure(&self.path, error))
            }
        }
    }

    /// Opens the file after a failed write, and makes sure that it does not hold what that write was refused.
    fn open_again(&mut self, revision: u64) -> Result<Database, StoreError> {
        let database = open(&self.path)?;
        if let Some((key, old)) = &self.unsure {
            commit(&database, key, old.as_ref(), revision, true).map_err(|error| failure(&self.path, error))?;
            self.unsure = None;
        }
        Ok(database)
    }

    /// Events and leases may be lost by a crash, in return for not waiting for the disk; the next write of another kind
    /// makes them durable too, and so does one of their own kinds before too many revisions could be lost.
    fn must_last(&self, key: &Key, revision: u64) -> bool {
        let fleeting = matches!(key.kind.as_str(), "/events" | "coordination.k8s.io/leases");
        !fleeting || revision - self.durable >= LEAP
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let failed = |error: redb::Error| failure(path, error);
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| failed(error.into()))?;
    let backend = FileBackend::new(file).map_err(|error| failed(error.into()))?;
    Database::builder().create_with_backend(backend).map_err(|error| failed(error.into()))
}

fn failure(path: &Path, error: redb::Error) -> StoreError {
    use std::io::ErrorKind;
    let path = path.display().to_string();
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::Busy { path },
        redb::Error::Io(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            StoreError::Full { path }
        }
        redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            StoreError::Damaged { path, why: error.to_string() }
        }
        redb::Error::Corrupted(why) => StoreError::Damaged { path, why },
        source => StoreError::Io { path, source: Box::new(source) },
    }
}

fn disk_key(key: &Key) -> String {
    format!("{}\0{}\0{}", key.kind, key.namespace, key.name)
}

fn read(database: &Database) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let table = match database.begin_read()?.open_table(OBJECTS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut content = Vec::new();
    for entry in table.iter()? {
        let (key, bytes) = entry?;
        content.push((key.value().to_owned(), bytes.value().to_vec()));
    }
    Ok(content)
}

fn counter(database: &Database) -> Result<u64, redb::Error> {
    match database.begin_read()?.open_table(COUNTERS) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        table => Ok(table?.get(REVISION)?.map_or(0, |revision| revision.value())),
    }
}

fn decode(disk_key: &str, bytes: &[u8]) -> Option<Object> {
    let mut parts = disk_key.split('\0').map(str::to_owned);
    let key = Key { kind: parts.next()?, namespace: parts.next()?, name: parts.next()? };
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let revision = value["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
    Some(Object { key, revision, value })
}

/// One transaction, which need not outlive a crash unless it is `durable`.
fn commit(
    database: &Database,
    key: &Key,
    value: Option<&Value>,
    revision: u64,
    durable: bool,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if !durable {
        transaction.set_durability(Durability::None)?;
    }
    store(&transaction, key, value, revision)?;
    Ok(transaction.commit()?)
}

fn store(transaction: &WriteTransaction, key: &Key, value: Option<&Value>, revision: u64) -> Result<(), redb::Error> {
    let mut objects = transaction.open_table(OBJECTS)?;
    match value {
        Some(value) => objects.insert(disk_key(key).as_str(), value.to_string().as_bytes())?,
        None => objects.remove(disk_key(key).as_str())?,
    };
    transaction.open_table(COUNTERS)?.insert(REVISION, revision)?;
    Ok(())
}
