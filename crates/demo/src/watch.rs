//! Asks again and again, and prints a line whenever the answer changes: when, the status, and who answered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Watch, dial};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) async fn run(args: Watch) -> anyhow::Result<()> {
    let mut connection = None;
    let mut last = String::new();
    loop {
        let answer = match dial::get(&mut connection, &args.url, "watch").await {
            Ok(head) => {
                let identity = head.headers.get("identity").and_then(|value| value.to_str().ok()).unwrap_or("-");
                format!("{} {identity}", head.status.as_u16())
            }
            Err(error) => format!("error {error:#}"),
        };
        if answer != last {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
            println!("{now} {answer}");
            last = answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
