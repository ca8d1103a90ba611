//! The file system of a container: this machine's files, in a mount namespace where writing changes nothing outside.
//!
//! Every file system that can be written is covered by an overlay whose upper layer is a tmpfs of the container's own;
//! `/dev` is made new; the kernel's own file systems are seen as they are. Volumes can so be mounted where no directory
//! exists on the machine. All of it goes away with the last process of the container.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::pivot_root;

use super::volumes::Mount;

/// What a container's file system is made of.
#[derive(Clone, Debug)]
pub struct Root {
    /// An empty directory, as the place to build in.
    pub scratch: PathBuf,
    /// Directories of the node that containers do not see.
    pub hidden: Vec<PathBuf>,
    /// Small files that replace the machine's, such as `/etc/resolv.conf`.
    pub files: Vec<(PathBuf, String)>,
    pub mounts: Vec<Mount>,
    /// Made when it is missing.
    pub working_dir: Option<PathBuf>,
}

/// Why a container's file system could not be built.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct RootError {
    what: String,
    source: io::Error,
}

/// Files of `/dev` that containers see.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// File systems that hold no files of a machine's own: they are passed on as they are.
const KERNEL_FILE_SYSTEMS: [&str; 18] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "securityfs",
    "sysfs",
    "tracefs",
];

impl Root {
    /// Makes this the root of the calling thread, which must be in a mount namespace of its own.
    ///
    /// Returns warnings: what was mounted in another way than asked for.
    pub fn enter(&self) -> Result<Vec<String>, RootError> {
        let mut warnings = Vec::new();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(at("cannot make the mounts private"))?;
        let volumes = self.detach_volumes()?;
        let root = self.build(&mut warnings)?;
        make_devices(&root)?;
        for (index, (path, text)) in self.files.iter().enumerate() {
            show_file(&root, path, text, index).map_err(at(format!("cannot write {}", path.display())))?;
        }
        change_root(&root)?;
        for (mount, volume) in self.mounts.iter().zip(volumes) {
            place(mount, &volume)?;
        }
        Ok(warnings)
    }

    /// Takes a mount of each volume's source while its path can still be seen.
    fn detach_volumes(&self) -> Result<Vec<OwnedFd>, RootError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let detach = |mount: &Mount| {
            let what = format!("{}: cannot mount {}", mount.field, mount.source.display());
            open_tree(CWD, &mount.source, flags).map_err(at(what))
        };
        self.mounts.iter().map(detach).collect()
    }

    /// Builds the tree in the scratch directory, and returns its place.
    fn build(&self, warnings: &mut Vec<String>) -> Result<PathBuf, RootError> {
        let scratch = self.scratch.canonicalize().map_err(at("cannot find the scratch directory"))?;
        mount("tmpfs", &scratch, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
            .map_err(at("cannot mount a tmpfs"))?;
        let root = scratch.join("root");
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(at("cannot read the mounts"))?;
        let mut skipped: Vec<PathBuf> = self.hidden.iter().filter_map(|path| path.canonicalize().ok()).collect();
        skipped.extend([scratch.clone(), PathBuf::from("/dev")]);
        let mut layers = layers(&table, &skipped);
        let additions = self.additions();
        if !can_cover_root(&scratch) {
            layers = split_root(&root, layers, &additions).map_err(at("cannot build the root"))?;
        }
        for (index, layer) in layers.iter().enumerate() {
            let target = inside(&root, &layer.path);
            let own: Vec<_> = additions.iter().filter(|(path, _)| is_on(path, layer, &layers)).collect();
            let covered = layer.writable && cover(layer, &scratch.join(index.to_string()), &target, &own).is_ok();
            if !covered {
                pass_on(layer, &target).map_err(at(format!("cannot show {}", layer.path.display())))?;
            }
            if !covered && layer.writable && !own.is_empty() {
                warnings.push(format!("{} is the machine's own: the kernel refused an overlay", layer.path.display()));
            }
        }
        for directory in &self.hidden {
            let target = inside(&root, directory);
            if target.is_dir() {
                mount("tmpfs", &target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0700,size=4k"))
                    .map_err(at(format!("cannot hide {}", directory.display())))?;
            }
        }
        Ok(root)
    }
}

/// What a container sees that the machine does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Addition {
    Directory,
    File(String),
}

impl Root {
    /// What the upper layers hold from the start: places for volumes, replaced files, and directories that can be
    /// written.
    ///
    /// They are laid there before the overlay is mounted, because in a user namespace nothing can be made in a
    /// directory of a user that is not known there, which is nearly every directory of the machine.
    fn additions(&self) -> Vec<(PathBuf, Addition)> {
        let directories = ["/tmp", "/var/tmp"].map(PathBuf::from).into_iter().chain(self.working_dir.clone());
        let mut additions: Vec<_> = directories.map(|path| (resolve(&path), Addition::Directory)).collect();
        for mount in &self.mounts {
            let is_dir = mount.source.is_dir();
            let addition = if is_dir { Addition::Directory } else { Addition::File(String::new()) };
            additions.push((resolve(&mount.target), addition));
        }
        for (path, text) in &self.files {
            // A link in its place is replaced, not followed.
            let parent = resolve(path.parent().unwrap_or(Path::new("/")));
            additions.push((parent.join(path.file_name().unwrap_or_default()), Addition::File(text.clone())));
        }
        additions
    }
}

/// A path with the links on its way followed, as far as it exists on the machine.
fn resolve(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    match existing {
        Some((ancestor, real)) => real.join(path.strip_prefix(ancestor).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}

/// Whether a path lies on this layer, and not on one that is mounted further in.
fn is_on(path: &Path, layer: &Layer, layers: &[Layer]) -> bool {
    let holders = layers.iter().filter(|layer| path.starts_with(&layer.path));
    holders.max_by_key(|layer| layer.path.as_os_str().len()) == Some(layer)
}

/// Lays an addition into the upper layer, with directories on the way that have the machine's permissions.
fn lay(upper: &Path, layer: &Path, path: &Path, addition: &Addition) -> io::Result<()> {
    let relative = path.strip_prefix(layer).unwrap_or(path);
    let directories = match addition {
        Addition::Directory => relative,
        Addition::File(_) => relative.parent().unwrap_or(Path::new("")),
    };
    let (mut here, mut there) = (upper.to_owned(), layer.to_owned());
    for name in directories {
        here.push(name);
        there.push(name);
        if !here.is_dir() {
            fs::create_dir(&here)?;
            if let Ok(found) = fs::metadata(&there) {
                fs::set_permissions(&here, found.permissions())?;
            }
        }
    }
    match addition {
        Addition::File(text) => fs::write(upper.join(relative), text),
        Addition::Directory => Ok(()),
    }
}

/// A mounted file system that a container sees.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Layer {
    path: PathBuf,
    /// It holds files and is not read-only: it gets an overlay.
    writable: bool,
}

/// The file systems to show, outer ones first, from the text of `/proc/self/mountinfo`. What lies below one that is
/// passed on as it is comes along with it.
fn layers(table: &str, skipped: &[PathBuf]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut closed: Vec<PathBuf> = skipped.to_vec();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(separator) = fields.iter().position(|field| *field == "-") else { continue };
        let (Some(path), Some(options), Some(kind)) = (fields.get(4), fields.get(5), fields.get(separator + 1)) else {
            continue;
        };
        let path = PathBuf::from(unescape(path));
        if closed.iter().any(|closed| path.starts_with(closed)) {
            continue;
        }
        let writable = options.split(',').any(|option| option == "rw") && !KERNEL_FILE_SYSTEMS.contains(kind);
        // A later mount on the same place hides the earlier one, and all below it.
        layers.retain(|layer| !layer.path.starts_with(&path));
        if !writable && path != Path::new("/") {
            closed.push(path.clone());
        }
        layers.push(Layer { path, writable });
    }
    layers
}

/// Whether the whole root can have one overlay. The kernel refuses it in a user namespace when file systems are mounted
/// below, for it would show what they hide.
fn can_cover_root(scratch: &Path) -> bool {
    let (root, target) = (Layer { path: "/".into(), writable: true }, scratch.join("trial"));
    cover(&root, &scratch.join("trial-layer"), &target, &[]).is_ok() && unmount(&target, UnmountFlags::DETACH).is_ok()
}

/// Builds the root as a directory of its own, and makes each directory in it a layer.
fn split_root(root: &Path, layers: Vec<Layer>, additions: &[(PathBuf, Addition)]) -> io::Result<Vec<Layer>> {
    fs::create_dir_all(root)?;
    // Only what is mounted can become the root.
    mount_bind(root, root)?;
    let mut parts = Vec::new();
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let (path, target) = (entry.path(), inside(root, &entry.path()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&path)?, &target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            let is_free = path != Path::new("/dev") && layers.iter().all(|layer| layer.path != path);
            parts.extend(is_free.then_some(Layer { path, writable: true }));
        } else if kind.is_file() {
            fs::write(&target, "")?;
            parts.push(Layer { path, writable: false });
        }
    }
    for (path, addition) in additions {
        let top: PathBuf = path.components().take(2).collect();
        if !top.exists() {
            lay(root, Path::new("/"), path, addition)?;
        }
    }
    parts.extend(layers.into_iter().filter(|layer| layer.path != Path::new("/")));
    Ok(parts)
}

/// Shows `layer` at `target` with an upper layer in `upper`, which is on the container's tmpfs.
fn cover(layer: &Layer, upper: &Path, target: &Path, additions: &[&(PathBuf, Addition)]) -> io::Result<()> {
    let (changes, work) = (upper.join("changes"), upper.join("work"));
    fs::create_dir_all(&changes)?;
    fs::create_dir_all(&work)?;
    fs::set_permissions(&changes, fs::metadata(&layer.path)?.permissions())?;
    for (path, addition) in additions {
        lay(&changes, &layer.path, path, addition)?;
    }
    if layer.path == Path::new("/") {
        fs::create_dir_all(target)?;
    } else if !target.is_dir() {
        // A file that is mounted over by a file cannot have an overlay.
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let options = format!("lowerdir={},upperdir={},workdir={}", escape(&layer.path), escape(&changes), escape(&work));
    let mount_with = |options: String| -> io::Result<()> {
        let options = CString::new(options)?;
        Ok(mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
    };
    // In a user namespace the overlay keeps its notes in attributes that an ordinary user may write.
    mount_with(options.clone()).or_else(|_| mount_with(format!("{options},userxattr")))
}

fn pass_on(layer: &Layer, target: &Path) -> io::Result<()> {
    fs::create_dir_all(if layer.path == Path::new("/") { target } else { target.parent().unwrap_or(target) })?;
    Ok(mount_bind_recursive(&layer.path, target)?)
}

/// A `/dev` with the usual files, a terminal multiplexer of its own and shared memory of its own.
fn make_devices(root: &Path) -> Result<(), RootError> {
    let dev = root.join("dev");
    mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID, Some(c"mode=0755,size=64k")).map_err(at("cannot mount /dev"))?;
    for device in DEVICES {
        let target = dev.join(device);
        fs::write(&target, "").map_err(at(format!("cannot make /dev/{device}")))?;
        mount_bind(Path::new("/dev").join(device), &target).map_err(at(format!("cannot mount /dev/{device}")))?;
    }
    let links =
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")];
    for (name, target) in links {
        symlink(target, dev.join(name)).map_err(at(format!("cannot link /dev/{name}")))?;
    }
    for directory in ["pts", "shm"] {
        fs::create_dir(dev.join(directory)).map_err(at(format!("cannot make /dev/{directory}")))?;
    }
    let options = Some(c"newinstance,ptmxmode=0666,mode=0620");
    mount("devpts", dev.join("pts"), "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, options)
        .map_err(at("cannot mount /dev/pts"))?;
    mount("tmpfs", dev.join("shm"), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777"))
        .map_err(at("cannot mount /dev/shm"))
}

/// Makes sure that a file has this text: where no overlay holds it, it is mounted over the machine's.
fn show_file(root: &Path, path: &Path, text: &str, index: usize) -> io::Result<()> {
    let target = inside(root, path);
    if fs::symlink_metadata(&target).is_ok_and(|found| found.is_file()) && fs::read_to_string(&target)? == text {
        return Ok(());
    }
    let own = root.with_file_name(format!("file-{index}"));
    fs::write(&own, text)?;
    Ok(mount_bind(&own, &target)?)
}

fn change_root(root: &Path) -> Result<(), RootError> {
    rustix::process::chdir(root).map_err(at("cannot enter the new root"))?;
    // With both at one place the old root lies on top of the new one, from where it is taken away.
    pivot_root(".", ".").map_err(at("cannot change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("cannot let go of the old root"))?;
    rustix::process::chdir("/").map_err(at("cannot enter the new root"))
}

/// Puts a volume in its place; directories, or an empty file, are made for it.
fn place(mount: &Mount, volume: &OwnedFd) -> Result<(), RootError> {
    let what = || format!("{}: cannot mount at {}", mount.field, mount.target.display());
    let is_dir = rustix::fs::fstat(volume)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory);
    make_target(&mount.target, is_dir).map_err(at(what()))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(volume, "", CWD, &mount.target, flags).map_err(at(what()))?;
    if mount.read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&mount.target, flags, "").map_err(at(format!("{}: cannot make it read-only", mount.field)))?;
    }
    Ok(())
}

fn make_target(target: &Path, is_dir: bool) -> io::Result<()> {
    if target.exists() {
        return Ok(());
    }
    if is_dir {
        return fs::create_dir_all(target);
    }
    fs::create_dir_all(target.parent().unwrap_or(Path::new("/")))?;
    fs::write(target, "")
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The text of a mountinfo field, where blanks and backslashes are written in octal.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn at<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> RootError {
    let what = what.into();
    |source| RootError { what, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writable_file_systems_are_covered_and_the_kernels_are_passed_on() {
        let table = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:20 / /proc rw - proc proc rw
24 23 0:21 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
25 22 0:22 / /home\\040dir rw shared:2 - ext4 /dev/vdb rw
26 22 0:23 / /snap/core ro - squashfs /dev/loop0 ro
27 22 0:24 / /dev rw - devtmpfs none rw
28 22 0:25 / /state/run rw - tmpfs none rw
";
        let found = layers(table, &["/dev".into(), "/state/run".into()]);
        let found: Vec<_> = found.iter().map(|layer| (layer.path.to_str().unwrap(), layer.writable)).collect();
        assert_eq!(found, [("/", true), ("/proc", false), ("/home dir", true), ("/snap/core", false)]);
    }
}
