//! Counts of HTTP statuses: the registered ones one by one, all others by their class, so that no server can make
//! series without end.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count for each registered status and each class.
pub(crate) struct Statuses([AtomicU64; REGISTERED.len() + CLASSES.len()]);

/// The statuses of IANA's registry, with their names in metrics.
const REGISTERED: [(u16, &str); 62] = [
    (100, "100"),
    (101, "101"),
    (102, "102"),
    (103, "103"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (203, "203"),
    (204, "204"),
    (205, "205"),
    (206, "206"),
    (207, "207"),
    (208, "208"),
    (226, "226"),
    (300, "300"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (305, "305"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (407, "407"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (423, "423"),
    (424, "424"),
    (425, "425"),
    (426, "426"),
    (428, "428"),
    (429, "429"),
    (431, "431"),
    (451, "451"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (506, "506"),
    (507, "507"),
    (508, "508"),
    (510, "510"),
    (511, "511"),
];

/// Of statuses that are not registered.
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The place of each status below 600.
const PLACES: [u8; 600] = {
    let mut places = [0; 600];
    let mut status = 0;
    while status < places.len() {
        places[status] = (REGISTERED.len() + status / 100) as u8;
        status += 1;
    }
    let mut at = 0;
    while at < REGISTERED.len() {
        places[REGISTERED[at].0 as usize] = at as u8;
        at += 1;
    }
    places
};

impl Statuses {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; REGISTERED.len() + CLASSES.len()])
    }

    /// The count of a status, for its one writer.
    pub(crate) fn of(&self, status: u16) -> &AtomicU64 {
        let place = PLACES.get(usize::from(status)).map_or(REGISTERED.len(), |place| usize::from(*place));
        &self.0[place]
    }

    /// The counts that are not zero, by name.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = REGISTERED.iter().map(|(_, name)| *name).chain(CLASSES);
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        names.zip(counts).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_is_not_registered_is_counted_by_its_class() {
        let statuses = Statuses::new();
        for status in [200, 200, 299, 503, 599, 600, 999, 0] {
            statuses.of(status).fetch_add(1, Ordering::Relaxed);
        }
        let counts: Vec<_> = statuses.counts().collect();
        assert_eq!(counts, [("200", 2), ("503", 1), ("other", 3), ("2xx", 1), ("5xx", 1)]);
    }
}
