//! The nftables rules that capture TCP, in a pod and on its way out of the node: a small encoder for nfnetlink, and the
//! rules as values.
//!
//! In the words of `nft`, for a pod in its own namespace:
//!
//! ```text
//! table ip heddle {
//!   chain output     { type nat hook output priority -100;
//!                      meta l4proto tcp meta mark != 0x4844 oif != lo redirect to :15001 }
//!   chain prerouting { type nat hook prerouting priority -100;
//!                      tcp dport 15008 return; ...; meta l4proto tcp redirect to :15006 }
//! }
//! ```
//!
//! And for the node, in its namespace:
//!
//! ```text
//! table ip heddle {
//!   chain prerouting { type nat hook prerouting priority -100;
//!                      ip daddr 10.244.0.0/16 return; ip daddr 10.96.0.0/16 return;
//!                      meta l4proto tcp redirect to :PORT }
//! }
//! ```

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{MARK, NODE_IP, SERVICE_NETWORK};
use crate::namespace::NetNamespace;

/// Where a pod's TCP goes. Everything but a proxy's own sockets and loopback is captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capture {
    /// The mark of sockets that are not captured.
    pub mark: u32,
    /// The proxy's port for what the pod opens.
    pub outbound: u16,
    /// The proxy's port for what arrives in plaintext.
    pub inbound: u16,
    /// Ports of the pod that are the proxy's own ends.
    pub not_inbound: Vec<u16>,
}

impl Default for Capture {
    fn default() -> Self {
        Self { mark: MARK, outbound: 15001, inbound: 15006, not_inbound: vec![15000, 15001, 15006, 15008] }
    }
}

impl Capture {
    /// Installs the rules in a pod's namespace, all or none.
    pub fn install(&self, netns: &NetNamespace) -> io::Result<()> {
        netns.run(|| commit(&self.batch()))
    }

    /// The rules as one nfnetlink batch.
    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.table();
        batch.nat_chain("output", HOOK_OUTPUT);
        let captured = [meta_is_tcp(), meta_is_not(META_MARK, self.mark), meta_is_not(META_OIF, LOOPBACK_INDEX)];
        batch.rule("output", &[captured.concat(), redirect(self.outbound)].concat());
        batch.nat_chain("prerouting", HOOK_PREROUTING);
        for port in &self.not_inbound {
            batch.rule("prerouting", &[meta_is_tcp(), destination_port_is(*port), verdict_return()].concat());
        }
        batch.rule("prerouting", &[meta_is_tcp(), redirect(self.inbound)].concat());
        batch.end();
        batch
    }
}

/// Hands to a port of the node the TCP that pods send to neither pods nor Services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Egress {
    pub port: u16,
}

impl Egress {
    /// Installs the rules in the node's namespace, all or none.
    pub fn install(&self, netns: &NetNamespace) -> io::Result<()> {
        netns.run(|| commit(&self.batch()))
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.table();
        batch.nat_chain("prerouting", HOOK_PREROUTING);
        // Both networks are a /16, so two octets tell them.
        for network in [NODE_IP, SERVICE_NETWORK] {
            let [first, second, ..] = network.octets();
            batch.rule("prerouting", &[destination_starts_with([first, second]), verdict_return()].concat());
        }
        batch.rule("prerouting", &[meta_is_tcp(), redirect(self.port)].concat());
        batch.end();
        batch
    }
}

// === nfnetlink ===
//
// Numbers below are those of linux/netfilter/nf_tables.h and linux/netlink.h.

const NETLINK_NETFILTER: i32 = 12;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const MESSAGE_ERROR: u16 = 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const FAMILY_IPV4: u8 = 2;
const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
/// Where destination NAT belongs: NF_IP_PRI_NAT_DST.
const PRIORITY: i32 = -100;
const META_MARK: u32 = 3;
const META_OIF: u32 = 5;
const META_L4PROTO: u32 = 16;
const CMP_EQUAL: u32 = 0;
const CMP_NOT_EQUAL: u32 = 1;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
/// Of the destination's address in the header of IPv4.
const DESTINATION_OFFSET: u32 = 16;
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const VERDICT_RETURN: i32 = -5;
const PROTOCOL_TCP: u8 = 6;
/// The loopback interface is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;
const TABLE: &str = "heddle";

/// Messages that take effect together.
struct Batch {
    bytes: Vec<u8>,
    /// How many messages ask for an acknowledgement.
    acknowledged: u32,
    sequence: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), acknowledged: 0, sequence: 0 };
        batch.message(BATCH_BEGIN, REQUEST, 0, NFTABLES, &[]);
        batch
    }

    fn end(&mut self) {
        self.message(BATCH_END, REQUEST, 0, NFTABLES, &[]);
    }

    fn table(&mut self) {
        self.create(NEW_TABLE, 0, &text(1, TABLE));
    }

    fn nat_chain(&mut self, name: &str, hook: u32) {
        let hook = nested(4, &[number(1, hook), attribute(2, &PRIORITY.to_be_bytes())].concat());
        self.create(NEW_CHAIN, 0, &[text(1, TABLE), text(3, name), hook, text(7, "nat")].concat());
    }

    fn rule(&mut self, chain: &str, expressions: &[u8]) {
        self.create(NEW_RULE, APPEND, &[text(1, TABLE), text(2, chain), nested(4, expressions)].concat());
    }

    fn create(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.acknowledged += 1;
        self.message(kind, REQUEST | ACK | CREATE | flags, FAMILY_IPV4, 0, attributes);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let length = u32::try_from(16 + 4 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
        self.sequence += 1;
    }
}

/// Sends a batch from the calling thread's namespace and waits until all of it is acknowledged.
fn commit(batch: &Batch) -> io::Result<()> {
    let netlink = Domain::from(i32::from(rustix::net::AddressFamily::NETLINK.as_raw()));
    let mut socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(&batch.bytes)?;
    let mut acknowledged = 0;
    let mut buffer = [0_u8; 8192];
    while acknowledged < batch.acknowledged {
        let length = socket.read(&mut buffer)?;
        acknowledged += acknowledgements(&buffer[..length])?;
    }
    Ok(())
}

/// Counts the acknowledgements in what the kernel sent; the first refusal is an error.
fn acknowledgements(mut bytes: &[u8]) -> io::Result<u32> {
    let mut count = 0;
    while let (Some(length), Some(kind), Some(code)) = (bytes.get(..4), bytes.get(4..6), bytes.get(16..20)) {
        let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if u16::from_ne_bytes([kind[0], kind[1]]) == MESSAGE_ERROR {
            match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
                0 => count += 1,
                code => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
        bytes = bytes.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Ok(count)
}

// === expressions ===

fn meta_is_tcp() -> Vec<u8> {
    [load_meta(META_L4PROTO), compare(CMP_EQUAL, &[PROTOCOL_TCP])].concat()
}

fn meta_is_not(key: u32, value: u32) -> Vec<u8> {
    [load_meta(key), compare(CMP_NOT_EQUAL, &value.to_ne_bytes())].concat()
}

fn destination_port_is(port: u16) -> Vec<u8> {
    let load = [number(1, REGISTER), number(2, BASE_TRANSPORT), number(3, 2), number(4, 2)].concat();
    [expression("payload", &load), compare(CMP_EQUAL, &port.to_be_bytes())].concat()
}

/// The first two octets of the destination's address.
fn destination_starts_with(octets: [u8; 2]) -> Vec<u8> {
    let place = [number(2, BASE_NETWORK), number(3, DESTINATION_OFFSET), number(4, 2)].concat();
    let load = [number(1, REGISTER), place].concat();
    [expression("payload", &load), compare(CMP_EQUAL, &octets)].concat()
}

fn load_meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(2, key), number(1, REGISTER)].concat())
}

fn compare(operator: u32, value: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, REGISTER), number(2, operator), nested(3, &attribute(1, value))].concat())
}

fn verdict_return() -> Vec<u8> {
    let verdict = nested(2, &nested(2, &attribute(1, &VERDICT_RETURN.to_be_bytes())));
    expression("immediate", &[number(1, REGISTER_VERDICT), verdict].concat())
}

fn redirect(port: u16) -> Vec<u8> {
    let load = [number(1, REGISTER), nested(2, &attribute(1, &port.to_be_bytes()))].concat();
    [expression("immediate", &load), expression("redir", &number(1, REGISTER))].concat()
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)].concat())
}

// === attributes ===

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, attributes)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_say_their_own_length() {
        assert_eq!(attribute(7, &[1]), [&5_u16.to_ne_bytes()[..], &7_u16.to_ne_bytes(), &[1, 0, 0, 0]].concat());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut refusal = Vec::new();
        refusal.extend(36_u32.to_ne_bytes());
        refusal.extend(MESSAGE_ERROR.to_ne_bytes());
        refusal.extend([0; 10]);
        refusal.extend((-1_i32).to_ne_bytes());
        refusal.resize(36, 0);
        assert_eq!(acknowledgements(&refusal).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(acknowledgements(&[1, 2, 3]).unwrap(), 0);
    }

    /// What `nft` reads back of the rules, where both it and namespaces are to be had.
    fn read_back(install: impl FnOnce(&NetNamespace)) -> Option<String> {
        let netns = NetNamespace::create().ok()?;
        install(&netns);
        let list = || std::process::Command::new("nft").args(["list", "ruleset"]).output();
        let output = netns.run(list).ok()?;
        let words: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().split_whitespace().collect();
        Some(words.join(" "))
    }

    #[test]
    fn nft_reads_the_rules_of_a_pod_as_they_are_meant() {
        let Some(rules) = read_back(|netns| Capture::default().install(netns).unwrap()) else { return };
        let expected = "table ip heddle { \
             chain output { type nat hook output priority -100; policy accept; \
             meta l4proto tcp meta mark != 0x00004844 oif != \"lo\" redirect to :15001 } \
             chain prerouting { type nat hook prerouting priority dstnat; policy accept; \
             tcp dport 15000 return tcp dport 15001 return tcp dport 15006 return tcp dport 15008 return \
             meta l4proto tcp redirect to :15006 } }";
        assert_eq!(rules, expected);
    }

    #[test]
    fn nft_reads_the_rules_of_the_way_out_as_they_are_meant() {
        let Some(rules) = read_back(|netns| Egress { port: 9 }.install(netns).unwrap()) else { return };
        let expected = "table ip heddle { \
             chain prerouting { type nat hook prerouting priority dstnat; policy accept; \
             ip daddr 10.244.0.0/16 return ip daddr 10.96.0.0/16 return \
             meta l4proto tcp redirect to :9 } }";
        assert_eq!(rules, expected);
    }
}
