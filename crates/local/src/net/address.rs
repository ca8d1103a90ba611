//! The addresses of pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Addresses given to pods, in turn: one that was freed comes back last, so that what still knows it as another pod's
/// has time to forget.
#[derive(Debug)]
pub struct Addresses {
    first: u32,
    last: u32,
    next: u32,
    used: BTreeSet<u32>,
}

/// Every address of the network is a pod's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no free address between {first} and {last}: delete pods")]
pub struct Exhausted {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl Addresses {
    /// Both ends are given out too.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Self {
        let (first, last) = (u32::from(first), u32::from(last));
        Self { first, last, next: first, used: BTreeSet::new() }
    }

    /// The pods of the bridge: 10.244.0.2 to 10.244.255.254.
    pub fn of_pod_network() -> Self {
        Self::new(Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 255, 254))
    }

    pub fn take(&mut self) -> Result<Ipv4Addr, Exhausted> {
        let span = self.last - self.first + 1;
        for offset in 0..span {
            let candidate = self.first + (self.next - self.first + offset) % span;
            if self.used.insert(candidate) {
                self.next = if candidate == self.last { self.first } else { candidate + 1 };
                return Ok(candidate.into());
            }
        }
        Err(Exhausted { first: self.first.into(), last: self.last.into() })
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&u32::from(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_address_comes_back_last() {
        let mut addresses = Addresses::new([10, 0, 0, 1].into(), [10, 0, 0, 3].into());
        let first = addresses.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 1));
        addresses.give_back(first);
        let next: Vec<_> = (0..3).map(|_| addresses.take().unwrap().octets()[3]).collect();
        assert_eq!(next, [2, 3, 1]);
        assert!(addresses.take().unwrap_err().to_string().contains("10.0.0.1 and 10.0.0.3"));
    }
}
