//! When a CronJob runs: the five fields of cron, the names for common ones, and `@every`.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// A parsed schedule in its time zone.
#[derive(Debug)]
pub(crate) enum Schedule {
    Cron(Box<cronexpr::Crontab>),
    Every(SignedDuration),
}

impl Schedule {
    /// # Errors
    /// What is wrong with the schedule, in words. The zone must be one that [`zone`] knows.
    pub(crate) fn parse(text: &str, zone: Option<&str>) -> Result<Self, String> {
        let text = text.trim();
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        if let Some(interval) = fields.strip_prefix("@every ") {
            return every(interval.trim());
        }
        let with_zone = format!("{} {}", fields.replace('?', "*"), zone.unwrap_or("UTC"));
        let parsed = cronexpr::parse_crontab(&with_zone).map_err(|error| error.to_string())?;
        Ok(Self::Cron(Box::new(parsed)))
    }

    /// The first time after this one; none if there is none.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(crontab) => crontab.find_next(after).ok().map(|zoned| zoned.timestamp()),
            Self::Every(interval) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*interval).ok(),
        }
    }

    /// The last time in `(after, until]`, and whether more than `many` were in it.
    pub(crate) fn last(&self, after: Timestamp, until: Timestamp, many: usize) -> Option<(Timestamp, bool)> {
        let times = |after| std::iter::successors(self.next(after), |at| self.next(*at)).take_while(|at| *at <= until);
        let missed = times(after).take(many + 1).count();
        if missed <= many {
            return times(after).last().map(|last| (last, false));
        }
        // Too many to walk through: the last one is found in the shortest stretch of time that has one.
        let stretches = [1, 24, 24 * 31, 24 * 366].map(|hours| until - SignedDuration::from_hours(hours));
        let last = stretches.into_iter().filter(|start| *start > after).find_map(|start| times(start).last());
        last.or_else(|| times(after).last()).map(|last| (last, true))
    }
}

fn every(interval: &str) -> Result<Schedule, String> {
    let parsed: SignedDuration =
        interval.parse().map_err(|error| format!("{interval:?} is not a duration: {error}"))?;
    if parsed < SignedDuration::from_secs(1) {
        return Err(format!("{interval:?} is less than a second"));
    }
    Ok(Schedule::Every(parsed))
}

/// A time zone by its IANA name.
///
/// # Errors
/// When this machine's time zone database does not have it.
pub(crate) fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        Schedule::parse(schedule, zone).unwrap().next(at(after)).unwrap().to_string()
    }

    #[test]
    fn fields_and_names_of_cron_are_understood() {
        assert_eq!(next("*/15 * * * *", None, "2026-01-01T00:07:00Z"), "2026-01-01T00:15:00Z");
        assert_eq!(next("@hourly", None, "2026-01-01T00:07:00Z"), "2026-01-01T01:00:00Z");
        assert_eq!(next("0 9 * * MON-FRI", None, "2026-01-02T10:00:00Z"), "2026-01-05T09:00:00Z");
        assert_eq!(next("0 0 13 * 5", None, "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z", "either day counts");
        assert_eq!(next("@every 90s", None, "2026-01-01T00:00:00Z"), "2026-01-01T00:01:30Z");
        assert!(Schedule::parse("61 * * * *", None).is_err());
        assert!(Schedule::parse("* * * *", None).is_err());
        assert!(Schedule::parse("@every 0s", None).is_err());
    }

    #[test]
    fn a_schedule_follows_its_time_zone() {
        assert_eq!(next("0 9 * * *", Some("Europe/Berlin"), "2026-07-01T00:00:00Z"), "2026-07-01T07:00:00Z");
        assert!(zone("Europe/Atlantis").is_err());
    }

    #[test]
    fn the_last_time_is_found_however_many_were_missed() {
        let schedule = Schedule::parse("* * * * *", None).unwrap();
        let until = at("2026-03-01T00:00:30Z");
        assert_eq!(schedule.last(at("2026-02-28T23:58:00Z"), until, 100), Some((at("2026-03-01T00:00:00Z"), false)));
        assert_eq!(schedule.last(at("2025-01-01T00:00:00Z"), until, 100), Some((at("2026-03-01T00:00:00Z"), true)));
        assert_eq!(schedule.last(at("2026-03-01T00:00:00Z"), until, 100), None);
    }
}
