//! Volumes: the files of ConfigMaps, Secrets, tokens and the downward API, and where containers see them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1 as core;

use super::downward::{self, Place};
use super::env::missing_object;
use super::sources::{ConfigError, Sources};

/// Where clients look for their ServiceAccount's token.
pub(super) const SERVICE_ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The volume that the kubelet adds for it.
const SERVICE_ACCOUNT_VOLUME: &str = "kube-api-access";
/// The lifetime of that token: an hour and the few seconds by which Kubernetes tells it from others.
const SERVICE_ACCOUNT_SECONDS: i64 = 3607;

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A token that a volume asks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct TokenClaim {
    /// The API server itself when absent.
    pub audience: Option<String>,
    pub seconds: i64,
}

/// All that files are made from.
pub(super) struct Contents<'a> {
    pub pod: &'a core::Pod,
    pub place: &'a Place,
    pub sources: &'a Sources,
    pub tokens: &'a BTreeMap<TokenClaim, String>,
    /// The certificate authority of the API, in PEM.
    pub api_ca: &'a str,
}

/// A volume of the pod as one container sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    pub source: PathBuf,
    /// Absolute, in the container.
    pub target: PathBuf,
    pub read_only: bool,
    /// The field that asks for it.
    pub field: String,
}

/// Adds the ServiceAccount's token to every container that has nothing else at its place, unless pod or account say no.
pub(super) fn with_service_account(mut pod: core::Pod, account: Option<&core::ServiceAccount>) -> core::Pod {
    let Some(spec) = pod.spec.as_mut() else { return pod };
    let by_account = account.and_then(|account| account.automount_service_account_token);
    if !spec.automount_service_account_token.or(by_account).unwrap_or(true) {
        return pod;
    }
    let mut added = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().all(|mount| mount.mount_path.trim_end_matches('/') != SERVICE_ACCOUNT_PATH) {
            mounts.push(core::VolumeMount {
                name: SERVICE_ACCOUNT_VOLUME.to_owned(),
                mount_path: SERVICE_ACCOUNT_PATH.to_owned(),
                read_only: Some(true),
                ..core::VolumeMount::default()
            });
            added = true;
        }
    }
    if added {
        spec.volumes.get_or_insert_default().push(service_account_volume());
    }
    pod
}

fn service_account_volume() -> core::Volume {
    let token = core::ServiceAccountTokenProjection {
        expiration_seconds: Some(SERVICE_ACCOUNT_SECONDS),
        path: "token".to_owned(),
        ..core::ServiceAccountTokenProjection::default()
    };
    let namespace = core::DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(core::ObjectFieldSelector {
            field_path: "metadata.namespace".to_owned(),
            ..Default::default()
        }),
        ..core::DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        core::VolumeProjection { service_account_token: Some(token), ..Default::default() },
        core::VolumeProjection {
            downward_api: Some(core::DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..Default::default()
        },
    ];
    core::Volume {
        name: SERVICE_ACCOUNT_VOLUME.to_owned(),
        projected: Some(core::ProjectedVolumeSource { sources: Some(sources), ..Default::default() }),
        ..core::Volume::default()
    }
}

/// The tokens that a pod's volumes ask for.
pub(super) fn token_claims(pod: &core::Pod) -> BTreeSet<TokenClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources =
        volumes.flat_map(|volume| volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()));
    sources.filter_map(|source| source.service_account_token.as_ref()).map(claim).collect()
}

fn claim(token: &core::ServiceAccountTokenProjection) -> TokenClaim {
    let audience = token.audience.clone().filter(|audience| !audience.is_empty());
    TokenClaim { audience, seconds: token.expiration_seconds.unwrap_or(3600).max(600) }
}

// === impl Contents ===

impl Contents<'_> {
    /// The files of a volume; absent for one that is a plain directory.
    pub(super) fn of_volume(&self, volume: &core::Volume, at: &str) -> Result<Option<Files>, ConfigError> {
        let mut files = Files::new();
        if let Some(map) = &volume.config_map {
            let at = format!("{at}.configMap");
            let items = Items { list: map.items.as_deref(), mode: mode(map.default_mode), optional: map.optional };
            self.config_map(&mut files, &map.name, &items, &at)?;
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let items =
                Items { list: secret.items.as_deref(), mode: mode(secret.default_mode), optional: secret.optional };
            self.secret(&mut files, name, &items, &format!("{at}.secret"))?;
        } else if let Some(downward) = &volume.downward_api {
            let at = format!("{at}.downwardAPI");
            self.downward(&mut files, downward.items.as_deref(), mode(downward.default_mode), &at)?;
        } else if let Some(projected) = &volume.projected {
            self.projected(&mut files, projected, &format!("{at}.projected"))?;
            if volume.name == SERVICE_ACCOUNT_VOLUME {
                files.insert("ca.crt".to_owned(), File { bytes: self.api_ca.as_bytes().to_vec(), mode: 0o644 });
            }
        } else {
            return Ok(None);
        }
        match files.keys().find(|path| !stays_inside(path)) {
            None => Ok(Some(files)),
            Some(path) => {
                let message = format!("the path `{path}` leaves the volume: it must be relative and without `..`");
                Err(ConfigError::Invalid { field: at.to_owned(), message })
            }
        }
    }

    fn projected(&self, files: &mut Files, volume: &core::ProjectedVolumeSource, at: &str) -> Result<(), ConfigError> {
        let mode = mode(volume.default_mode);
        for (index, source) in volume.sources.iter().flatten().enumerate() {
            let at = format!("{at}.sources[{index}]");
            if let Some(map) = &source.config_map {
                let items = Items { list: map.items.as_deref(), mode, optional: map.optional };
                self.config_map(files, &map.name, &items, &format!("{at}.configMap"))?;
            } else if let Some(secret) = &source.secret {
                let items = Items { list: secret.items.as_deref(), mode, optional: secret.optional };
                self.secret(files, &secret.name, &items, &format!("{at}.secret"))?;
            } else if let Some(downward) = &source.downward_api {
                self.downward(files, downward.items.as_deref(), mode, &format!("{at}.downwardAPI"))?;
            } else if let Some(token) = &source.service_account_token {
                let bytes = self.tokens.get(&claim(token)).cloned().unwrap_or_default().into_bytes();
                files.insert(token.path.clone(), File { bytes, mode });
            } else {
                let message = "this kind of projection is not provided".to_owned();
                return Err(ConfigError::Invalid { field: at, message });
            }
        }
        Ok(())
    }

    fn config_map(&self, files: &mut Files, name: &str, items: &Items<'_>, at: &str) -> Result<(), ConfigError> {
        self.entries(files, "ConfigMap", name, self.sources.config_map(name), items, at)
    }

    fn secret(&self, files: &mut Files, name: &str, items: &Items<'_>, at: &str) -> Result<(), ConfigError> {
        self.entries(files, "Secret", name, self.sources.secret(name), items, at)
    }

    fn entries(
        &self,
        files: &mut Files,
        kind: &'static str,
        name: &str,
        entries: Option<BTreeMap<String, Vec<u8>>>,
        items: &Items<'_>,
        at: &str,
    ) -> Result<(), ConfigError> {
        let optional = items.optional == Some(true);
        let Some(mut entries) = entries else {
            return if optional { Ok(()) } else { Err(missing_object(at, kind, self.pod, name)) };
        };
        let Some(list) = items.list else {
            files.extend(entries.into_iter().map(|(key, bytes)| (key, File { bytes, mode: items.mode })));
            return Ok(());
        };
        for item in list {
            match entries.remove(&item.key) {
                Some(bytes) => {
                    let mode = item.mode.map_or(items.mode, |own| mode(Some(own)));
                    files.insert(item.path.clone(), File { bytes, mode });
                }
                None if optional => {}
                None => {
                    let (field, name, key) = (at.to_owned(), name.to_owned(), item.key.clone());
                    return Err(ConfigError::MissingKey { field, kind, name, key });
                }
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        files: &mut Files,
        items: Option<&[core::DownwardAPIVolumeFile]>,
        default_mode: u32,
        at: &str,
    ) -> Result<(), ConfigError> {
        for (index, item) in items.into_iter().flatten().enumerate() {
            let at = format!("{at}.items[{index}]");
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(self.pod, self.place, &field.field_path, &at)?,
                (None, Some(resource)) => downward::resource(self.pod, None, self.place, resource, &at)?,
                (None, None) => String::new(),
            };
            let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
            files.insert(item.path.clone(), File { bytes: text.into_bytes(), mode });
        }
        Ok(())
    }
}

/// Which entries of an object become files.
struct Items<'a> {
    list: Option<&'a [core::KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
}

fn mode(declared: Option<i32>) -> u32 {
    declared.and_then(|mode| u32::try_from(mode).ok()).map_or(0o644, |mode| mode & 0o777)
}

fn stays_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Puts `files` into the directory of a volume so that a reader sees all of the old or all of the new: they are written
/// aside, and the link `..data`, through which all names go, is replaced. Unchanged files are left alone.
pub(super) fn publish(volume: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(volume)?;
    let data = volume.join("..data");
    let current = fs::read_link(&data).ok();
    if current.is_some() && files_in(&data)? == *files {
        return Ok(());
    }
    let fresh = format!("..{}", uuid::Uuid::new_v4().simple());
    for (path, file) in files {
        let path = volume.join(&fresh).join(path);
        fs::create_dir_all(path.parent().unwrap_or(volume))?;
        fs::write(&path, &file.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    fs::create_dir_all(volume.join(&fresh))?;
    symlink(&fresh, volume.join("..next"))?;
    fs::rename(volume.join("..next"), &data)?;
    link_names(volume, files)?;
    match current {
        Some(old) => fs::remove_dir_all(volume.join(old)),
        None => Ok(()),
    }
}

/// Makes the names of the volume's top level links through `..data`, and removes those that are gone.
fn link_names(volume: &Path, files: &Files) -> io::Result<()> {
    let names: BTreeSet<_> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        match symlink(Path::new("..data").join(name), volume.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn files_in(directory: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut pending = vec![(directory.to_owned(), String::new())];
    while let Some((directory, prefix)) = pending.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                pending.push((entry.path(), format!("{name}/")));
            } else {
                let mode = entry.metadata()?.permissions().mode() & 0o777;
                files.insert(name, File { bytes: fs::read(entry.path())?, mode });
            }
        }
    }
    Ok(files)
}

/// Where the volumes of a pod are on this machine.
pub(super) struct Directories {
    /// Of those that go with the pod.
    pub volumes: PathBuf,
    /// Of what its namespace's PersistentVolumeClaims stand for.
    pub claims: PathBuf,
}

/// What a container's `volumeMounts` name. `expand` is for `subPathExpr`; `at` is the container's path.
pub(super) fn mounts(
    spec: &core::PodSpec,
    container: &core::Container,
    directories: &Directories,
    at: &str,
    expand: impl Fn(&str) -> String,
) -> Result<Vec<Mount>, ConfigError> {
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let field = format!("{at}.volumeMounts[{index}]");
        let invalid = |message: String| ConfigError::Invalid { field: field.clone(), message };
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| invalid(format!("the pod has no volume `{}`", mount.name)))?;
        let mut source = match (&volume.host_path, &volume.persistent_volume_claim) {
            (Some(host), _) => {
                host_path(host).map_err(|error| invalid(format!("hostPath `{}`: {error}", host.path)))?
            }
            (None, Some(claim)) => {
                claimed(&directories.claims, &claim.claim_name).map_err(|error| invalid(error.to_string()))?
            }
            (None, None) => directories.volumes.join(&mount.name),
        };
        let sub_path = mount.sub_path_expr.as_deref().map(&expand).or_else(|| mount.sub_path.clone());
        if let Some(sub_path) = sub_path.filter(|path| !path.is_empty()) {
            if !stays_inside(&sub_path) {
                return Err(invalid(format!("the subPath `{sub_path}` leaves the volume")));
            }
            source = sub_directory(&source, &sub_path).map_err(|error| invalid(format!("{sub_path}: {error}")))?;
        }
        let claim = volume.persistent_volume_claim.as_ref();
        let claimed = claim.is_some_and(|claim| claim.read_only != Some(true));
        let written = volume.host_path.is_some() || volume.empty_dir.is_some() || claimed;
        let read_only = mount.read_only.unwrap_or(false) || !written;
        mounts.push(Mount { source, target: PathBuf::from(&mount.mount_path), read_only, field });
    }
    Ok(mounts)
}

/// A path in a volume, made as a directory when it is missing. A link that leads out of the volume is refused.
fn sub_directory(volume: &Path, sub_path: &str) -> io::Result<PathBuf> {
    let path = volume.join(sub_path);
    if !path.exists() {
        fs::create_dir_all(&path)?;
    }
    let path = path.canonicalize()?;
    if path.starts_with(volume.canonicalize()?) {
        Ok(path)
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it leads out of the volume"))
    }
}

/// The directory of a claim. It stays when the pod goes, and when the claim does.
fn claimed(claims: &Path, name: &str) -> io::Result<PathBuf> {
    if !stays_inside(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` names no claim")));
    }
    let path = claims.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn host_path(host: &core::HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = PathBuf::from(&host.path);
    match host.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => fs::create_dir_all(&path)?,
        "FileOrCreate" => drop(fs::OpenOptions::new().append(true).create(true).open(&path)?),
        "Directory" if !path.is_dir() => return Err(io::Error::other("it is not a directory")),
        "File" if !path.is_file() => return Err(io::Error::other("it is not a file")),
        _ => {}
    }
    path.canonicalize()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: 0o644 }))
            .collect()
    }

    #[test]
    fn a_volume_changes_as_a_whole_and_forgets_what_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        publish(&volume, &files(&[("a", "1"), ("d/b", "2")])).unwrap();
        let before = fs::read_link(volume.join("..data")).unwrap();
        publish(&volume, &files(&[("a", "1"), ("d/b", "2")])).unwrap();
        assert_eq!(fs::read_link(volume.join("..data")).unwrap(), before, "the same files are not written again");
        assert_eq!(fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        publish(&volume, &files(&[("a", "3")])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert!(!volume.join("d").exists() && !volume.join(before).exists());
    }

    fn contents(volume: serde_json::Value) -> Result<Option<Files>, ConfigError> {
        let pod: core::Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let place = Place { pod_ip: [10, 244, 0, 7].into(), host_ip: [10, 244, 0, 1].into(), processors: 1, memory: 1 };
        let sources = Sources {
            config_maps: [("c".to_owned(), serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap())]
                .into(),
            ..Sources::default()
        };
        let tokens = [(TokenClaim { audience: Some("heddle".into()), seconds: 600 }, "jwt".to_owned())].into();
        let contents = Contents { pod: &pod, place: &place, sources: &sources, tokens: &tokens, api_ca: "" };
        contents.of_volume(&serde_json::from_value(volume).unwrap(), "spec.volumes[0]")
    }

    #[test]
    fn a_projected_volume_gathers_its_sources() {
        let found = contents(json!({"name": "v", "projected": {"sources": [
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "x/k"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "heddle", "expirationSeconds": 600}},
        ]}}));
        assert_eq!(found.unwrap().unwrap(), files(&[("x/k", "v"), ("name", "p"), ("token", "jwt")]));
    }

    #[test]
    fn what_a_volume_lacks_is_named() {
        let gone = contents(json!({"name": "v", "configMap": {"name": "gone"}})).unwrap_err();
        assert!(gone.to_string().starts_with("spec.volumes[0].configMap: the ConfigMap `gone` does not exist"));
        let out = json!({"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "../k"}]}});
        assert!(contents(out).unwrap_err().to_string().contains("leaves the volume"));
        assert_eq!(contents(json!({"name": "v", "emptyDir": {}})).unwrap(), None);
    }
}
