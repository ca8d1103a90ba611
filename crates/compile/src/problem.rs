//! What is wrong with resources, said once and shown in status, events, admission and `heddle check` alike.

use std::fmt;

use heddle_policy::Origin;
use heddle_smi::{Invalid, InvalidReason};

use crate::ConditionType;

/// Something in a resource that has not the effect it seems to have.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// The resource and the field.
    pub origin: Origin,
    pub severity: Severity,
    pub reason: ProblemReason,
    /// What is wrong and what follows from it: a sentence without full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How bad a problem is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The resource, or the part of it, has no effect.
    Error,
    /// It has another effect than it seems to have.
    Warning,
    /// Worth knowing; nothing is wrong. No event is made of it.
    Note,
}

/// The kinds of problems: the reason of events and conditions. The codes are a promise.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ProblemReason {
    /// The resource, or a field of it, is not what its kind demands.
    Invalid,
    /// A field that nothing reads.
    UnknownField,
    /// A subject of an unknown kind (A26).
    UnknownSubject,
    /// A name refers to nothing (A9, I6, T9, T17).
    RefNotFound,
    /// A route group has no match of that name (A8).
    MatchNotFound,
    /// A target for another namespace (A23).
    ForeignTarget,
    /// An identity of another namespace or trust domain as a destination (I4).
    ForeignIdentity,
    /// A split whose root or backend is in another namespace, or not a Service's name (T1, T22).
    ForeignService,
    /// No workload runs with the identity that a target or a binding names.
    NoWorkload,
    /// The workloads that a target or a binding names have no proxy.
    NotInMesh,
    /// An identity of another trust domain as a source: its certificate is not believed yet (I4).
    NotFederated,
    /// A Service port that maps to several container ports (S16).
    PortAmbiguous,
    /// A backend without the root's port (T10).
    PortMismatch,
    /// Every weight of a split is zero (T7).
    AllWeightsZero,
    /// A weighted backend without ready endpoints (T9).
    NoReadyEndpoints,
    /// Another split without matches has the same root (T21).
    Conflicted,
    /// One Service twice among the backends (T33).
    DuplicateBackend,
    /// The root is one of its own backends (T20).
    SelfReference,
    /// A backend is the root of another split (T19).
    NestedSplit,
    /// A split of HTTP requests at a port that carries none (T18).
    MatchesOnTcp,
    /// The root of a split does not exist (T23).
    RootNotFound,
    /// The root of a split is a name outside the cluster.
    UnsupportedRoot,
    /// The root of a split is headless (T35).
    HeadlessRoot,
    /// A backend is a name outside the cluster (T36).
    UnsupportedBackend,
    /// No proxy carries UDP.
    UdpNotCarried,
    /// Services say different protocols of one container port.
    ProtocolConflict,
    /// A named target port that no selected workload has (T13).
    TargetPortNotFound,
    /// A value that probably means something else than its author thinks.
    Doubtful,
    /// A pattern matches longer paths, too (S4).
    LongerPaths,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn error(origin: Origin, reason: ProblemReason, message: impl Into<String>) -> Self {
        Self { origin, severity: Severity::Error, reason, message: message.into(), hint: None }
    }

    pub(crate) fn warning(origin: Origin, reason: ProblemReason, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(origin, reason, message) }
    }

    pub(crate) fn note(origin: Origin, reason: ProblemReason, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(origin, reason, message) }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Why smi refuses a resource.
    pub(crate) fn refused(origin: &Origin, invalid: &Invalid) -> Self {
        let origin = origin.field(invalid.field.as_str());
        Self { hint: invalid.hint.clone(), ..Self::error(origin, ProblemReason::Invalid, invalid.message.as_str()) }
    }

    /// What smi finds doubtful in a valid resource.
    pub(crate) fn doubtful(origin: &Origin, warning: &Invalid) -> Self {
        let reason = match warning.reason {
            InvalidReason::UnknownField => ProblemReason::UnknownField,
            InvalidReason::NotSupported if warning.field.ends_with(".kind") => ProblemReason::UnknownSubject,
            // An empty list makes the resource void.
            InvalidReason::Required => ProblemReason::Invalid,
            _ => ProblemReason::Doubtful,
        };
        Self { severity: Severity::Warning, reason, ..Self::refused(origin, warning) }
    }

    /// Whether a Kubernetes event of type `Warning` is made of it.
    pub fn is_event(&self) -> bool {
        self.severity != Severity::Note
    }
}

/// `error RefNotFound TrafficTarget shop/buyers spec.rules[0] (access.yaml:12): message`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}", self.severity, self.reason, self.origin, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

// === impl ProblemReason ===

impl ProblemReason {
    /// The code, as it stands in conditions and events.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::UnknownField => "UnknownField",
            Self::UnknownSubject => "UnknownSubject",
            Self::RefNotFound => "RefNotFound",
            Self::MatchNotFound => "MatchNotFound",
            Self::ForeignTarget => "ForeignTarget",
            Self::ForeignIdentity => "ForeignIdentity",
            Self::ForeignService => "ForeignService",
            Self::NoWorkload => "NoWorkload",
            Self::NotInMesh => "NotInMesh",
            Self::NotFederated => "NotFederated",
            Self::PortAmbiguous => "PortAmbiguous",
            Self::PortMismatch => "PortMismatch",
            Self::AllWeightsZero => "AllWeightsZero",
            Self::NoReadyEndpoints => "NoReadyEndpoints",
            Self::Conflicted => "Conflicted",
            Self::DuplicateBackend => "DuplicateBackend",
            Self::SelfReference => "SelfReference",
            Self::NestedSplit => "NestedSplit",
            Self::MatchesOnTcp => "MatchesOnTcp",
            Self::RootNotFound => "RootNotFound",
            Self::UnsupportedRoot => "UnsupportedRoot",
            Self::HeadlessRoot => "HeadlessRoot",
            Self::UnsupportedBackend => "UnsupportedBackend",
            Self::UdpNotCarried => "UdpNotCarried",
            Self::ProtocolConflict => "ProtocolConflict",
            Self::TargetPortNotFound => "TargetPortNotFound",
            Self::Doubtful => "Doubtful",
            Self::LongerPaths => "LongerPaths",
        }
    }

    /// The condition that a problem of this kind makes false; `None` when the resource works as it stands.
    pub(crate) const fn condition(self) -> Option<ConditionType> {
        match self {
            Self::Invalid | Self::ForeignTarget | Self::ForeignService | Self::Conflicted | Self::DuplicateBackend => {
                Some(ConditionType::Accepted)
            }
            Self::UnknownSubject
            | Self::RefNotFound
            | Self::MatchNotFound
            | Self::ForeignIdentity
            | Self::PortAmbiguous
            | Self::PortMismatch
            | Self::RootNotFound
            | Self::UnsupportedRoot
            | Self::UnsupportedBackend => Some(ConditionType::ResolvedRefs),
            Self::AllWeightsZero | Self::NotFederated | Self::UdpNotCarried => Some(ConditionType::Programmed),
            Self::UnknownField
            | Self::Doubtful
            | Self::NoWorkload
            | Self::NotInMesh
            | Self::NoReadyEndpoints
            | Self::SelfReference
            | Self::NestedSplit
            | Self::HeadlessRoot
            | Self::MatchesOnTcp
            | Self::ProtocolConflict
            | Self::TargetPortNotFound
            | Self::LongerPaths => None,
        }
    }
}

impl ProblemReason {
    /// Whether the whole resource has no effect.
    pub(crate) fn is_fatal(self) -> bool {
        self.condition() == Some(ConditionType::Accepted) || matches!(self, Self::RootNotFound | Self::UnsupportedRoot)
    }
}

impl fmt::Display for ProblemReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
