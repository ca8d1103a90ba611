//! Manifests on disk: the YAML and JSON files of the paths a user names, read with the place of every field.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use heddle_smi::manifest::{self, Document, SyntaxError};

/// One file and what was read of it.
pub(crate) struct Manifest {
    /// As the user would write it: below the path that was named.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) documents: Vec<Document>,
    pub(crate) errors: Vec<SyntaxError>,
}

/// Reads files, and every `.yaml`, `.yml` and `.json` file below directories, in the order of their names.
pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Manifest>> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        collect(path, true, &mut files)?;
        if files.len() == before {
            bail!("{} has no .yaml, .yml or .json file", path.display());
        }
    }
    files.iter().map(|path| Manifest::read(path)).collect()
}

fn collect(path: &Path, named: bool, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", path.display());
    if !std::fs::metadata(path).with_context(context)?.is_dir() {
        let is_manifest = path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if named || is_manifest {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(context)?;
    let mut entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    // Names that start with a dot are an editor's or a tool's own.
    entries.retain(|entry| !entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    entries.iter().try_for_each(|entry| collect(entry, false, files))
}

impl Manifest {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            anyhow::anyhow!("{} is not UTF-8: see byte {at}", path.display())
        })?;
        let manifest::Manifest { documents, errors } = manifest::parse(&text);
        Ok(Self { path: path.to_owned(), text, documents, errors })
    }

    /// `file:line:column` of an object.
    pub(crate) fn place(&self, document: &Document) -> String {
        format!("{}:{}:{}", self.path.display(), document.start.line, document.start.column)
    }
}
