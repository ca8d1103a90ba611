//! What becomes of the state directory and of the API when the disk fails them.

use std::path::{Path, PathBuf};

use heddle_api::{Api, Config};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::api::{ListParams, PostParams};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

fn map(name: &str, size: usize) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"text": "x".repeat(size)}}))
        .expect("a ConfigMap")
}

fn maps(api: &Api) -> kube::Api<ConfigMap> {
    kube::Api::namespaced(api.client(), "default")
}

async fn open(dir: &Path) -> Result<Api, String> {
    Api::open(Config { state_dir: Some(dir.to_owned()) }).await.map_err(|error| error.to_string())
}

/// Opens a directory that an API before used; that one ends when its background tasks have seen that it is gone.
async fn reopen(dir: &Path) -> Api {
    loop {
        match open(dir).await {
            Err(why) if why.contains("another `heddle up`") => tokio::task::yield_now().await,
            opened => return opened.expect("an API"),
        }
    }
}

/// A small disk of its own, until it is dropped.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// None where the machine lets nobody mount; CI sets `HEDDLE_REQUIRE_NETNS` where it is root, and fails then.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        match mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), Some(c"size=8m")) {
            Ok(()) => Some(Disk { dir }),
            Err(error) if std::env::var_os("HEDDLE_REQUIRE_NETNS").is_some() => {
                panic!("nothing can be mounted: {error}")
            }
            Err(error) => {
                eprintln!("skipped: this machine lets this user mount nothing: {error}");
                None
            }
        }
    }

    /// Takes all the space that is left, in the file that is returned.
    fn fill(&self) -> PathBuf {
        let path = self.dir.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("a file");
        for size in [64 * 1024, 1024, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.dir.path(), UnmountFlags::DETACH).expect("what was mounted");
    }
}

#[tokio::test]
async fn on_a_full_disk_writes_are_refused_and_reads_go_on_until_there_is_space() {
    let Some(disk) = Disk::new() else { return };
    let state = disk.dir.path().join("state");
    let api = open(&state).await.expect("an API");
    let maps = maps(&api);
    maps.create(&PostParams::default(), &map("kept", 10)).await.expect("created");
    let filler = disk.fill();
    let mut made = Vec::new();
    let refused = loop {
        // What the store has of free pages of its own may still take some.
        let name = format!("more-{}", made.len());
        match maps.create(&PostParams::default(), &map(&name, 100_000)).await {
            Ok(_) => made.push(name),
            Err(kube::Error::Api(status)) => break status,
            Err(other) => panic!("not a Status: {other}"),
        }
    };
    assert_eq!((refused.code, refused.reason.as_str()), (507, "InsufficientStorage"));
    assert!(refused.message.contains("objects.redb is full; nothing was changed"), "{}", refused.message);
    for _ in 0..3 {
        let again = maps.create(&PostParams::default(), &map("again", 100_000)).await;
        assert!(matches!(&again, Err(kube::Error::Api(status)) if status.code == 507), "{again:?}");
    }
    assert_eq!(maps.list(&ListParams::default()).await.expect("read").items.len(), made.len() + 1);
    std::fs::remove_file(filler).expect("removed");
    maps.create(&PostParams::default(), &map("later", 100_000)).await.expect("there is space again");
    drop((maps, api));
    let api = reopen(&state).await;
    let found = self::maps(&api).list(&ListParams::default()).await.expect("read");
    let names: Vec<String> = found.items.into_iter().filter_map(|map| map.metadata.name).collect();
    assert_eq!(names, [vec!["kept".to_owned(), "later".to_owned()], made].concat());
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_named_with_the_reason_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("objects.redb");
    let refused = async || open(dir.path()).await.err().expect("refused");

    std::fs::create_dir(&store).expect("a directory");
    let why = refused().await;
    assert!(why.starts_with(&format!("cannot use the store {}: ", store.display())), "{why}");
    std::fs::remove_dir(&store).expect("removed");

    std::fs::write(&store, b"this is no database, and was never one").expect("a file");
    let why = refused().await;
    assert!(why.contains("objects.redb is damaged: ") && why.contains("move the file away"), "{why}");
    assert_eq!(std::fs::read(&store).expect("the file").len(), 38, "it is left as it is");
    std::fs::remove_file(&store).expect("removed");

    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("a file");
    let why = open(&file.join("state")).await.err().expect("refused");
    assert!(why.contains("cannot use the state directory") && why.contains("Not a directory"), "{why}");
}

#[tokio::test]
async fn a_store_that_lost_a_part_is_refused_or_read_but_never_takes_the_program_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = open(dir.path()).await.expect("an API");
    for number in 0..20 {
        maps(&api).create(&PostParams::default(), &map(&format!("m{number}"), 5_000)).await.expect("created");
    }
    let whole = std::fs::read(dir.path().join("objects.redb")).expect("the file");
    for part in 1..8 {
        let damaged = tempfile::tempdir().expect("a directory");
        let file = damaged.path().join("objects.redb");
        std::fs::write(&file, &whole[..whole.len() * part / 8]).expect("a shorter file");
        drop(open(damaged.path()).await);
        let mut bytes = whole.clone();
        let middle = bytes.len() * part / 8;
        bytes[middle..middle + 512].fill(0xa5);
        std::fs::write(&file, &bytes).expect("another file");
        drop(open(damaged.path()).await);
    }
}

#[tokio::test]
async fn no_revision_is_given_twice_although_a_crash_forgets_events() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = open(dir.path()).await.expect("an API");
    maps(&api).create(&PostParams::default(), &map("a", 1)).await.expect("created");
    let events: kube::Api<Event> = kube::Api::namespaced(api.client(), "default");
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started"});
    let event = serde_json::from_value(event).expect("an event");
    let seen = events.create(&PostParams::default(), &event).await.expect("created").metadata.resource_version;
    // As a process leaves them that is killed.
    let left = tempfile::tempdir().expect("a directory");
    std::fs::copy(dir.path().join("objects.redb"), left.path().join("objects.redb")).expect("a copy");
    let api = open(left.path()).await.expect("an API");
    let events: kube::Api<Event> = kube::Api::namespaced(api.client(), "default");
    assert!(events.list(&ListParams::default()).await.expect("a list").items.is_empty(), "the event was made durable");
    let made = maps(&api).create(&PostParams::default(), &map("b", 1)).await.expect("created").metadata;
    let number = |revision: Option<String>| revision.and_then(|text| text.parse::<u64>().ok()).expect("a number");
    assert!(number(made.resource_version) > number(seen));
}
