//! A terminal through `kubectl exec -it` and `heddle exec -it`: its size, and what is typed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::mesh::{HEDDLE, Mesh};

/// Says its size as it is at first, then when it is another, then what was typed.
const SCRIPT: &str = "until [ \"$(stty size)\" = '50 132' ]; do :; done; echo first; \
                      until [ \"$(stty size)\" = '40 100' ]; do :; done; echo second; \
                      read typed; echo \"read $typed\"";

/// A terminal's two ends.
fn terminal() -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = openpt(flags).expect("a terminal");
    grantpt(&controller).expect("it is ours");
    unlockpt(&controller).expect("it is ours");
    let end = ioctl_tiocgptpeer(&controller, flags).expect("its other end");
    (controller.into(), end)
}

fn resize(controller: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(controller, size).expect("a size");
}

/// Reads until a text was shown.
fn wait_for(controller: &mut File, text: &str) {
    let mut shown = String::new();
    let mut buffer = [0; 256];
    while !shown.contains(text) {
        let length = controller.read(&mut buffer).unwrap_or_else(|error| panic!("{error} before {text}: {shown}"));
        shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

#[test]
fn a_terminal_has_the_size_of_the_users_own_and_passes_on_what_is_typed() {
    let Some(mesh) = Mesh::up("crates/cli/tests/fixtures/sleeper", &[]) else { return };
    for program in ["kubectl", HEDDLE] {
        exec_in_a_terminal(&mesh, program);
    }
}

fn exec_in_a_terminal(mesh: &Mesh, program: &str) {
    let (mut controller, end) = terminal();
    resize(&controller, 50, 132);
    let arguments = ["--ctty", "--wait", program, "exec", "-it", "sleeper", "--", "sh", "-c", SCRIPT];
    let mut command = mesh.command("setsid", &arguments);
    let copy = || end.try_clone().expect("a copy");
    let mut child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("the program runs");
    // What this process holds of the other end would keep the terminal open.
    drop((command, end));
    wait_for(&mut controller, "first");
    resize(&controller, 40, 100);
    wait_for(&mut controller, "second");
    controller.write_all(b"these words\n").expect("typed");
    wait_for(&mut controller, "read these words");
    assert!(child.wait().expect("the program ends").success());
}
