//! Who is calling on the operator plane.

/// A caller whom the operator plane has recognised.
///
/// Until there are operators, the one door is the admin socket: the right to open it is the
/// proof, and the kernel says who did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Socket { uid: u32, pid: Option<i32> },
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Caller::Socket { uid, pid: Some(pid) } => write!(f, "socket uid={uid} pid={pid}"),
            Caller::Socket { uid, pid: None } => write!(f, "socket uid={uid}"),
        }
    }
}
