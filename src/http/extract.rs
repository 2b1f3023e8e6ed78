//! The proofs: a handler that takes one of these needs no check and cannot miss one. The guard of
//! its route (`operator::guard`) made them.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use super::error::HttpError;
use crate::actions::{Failure, NO_SUCH_NODE};
use crate::domain::identity::{By, Caller};
use crate::domain::policy::Target;
use crate::store::columns::Id;

/// Who is at the other end of the admin socket, as the kernel says; kept with the connection.
#[derive(Clone, Debug)]
pub struct SocketPeer(pub Caller);

/// A request that policy allows: who makes it, and what its URL names.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub by: By,
    /// The project of the URL. Only the socket can name one that does not exist.
    pub project: Option<Id>,
    /// The node that the URL names, whether or not it is there.
    pub named: Option<String>,
    /// The same, if the project has it.
    pub system_id: Option<String>,
    /// What policy was told of that.
    pub target: Target,
}

/// Somebody who may do what the route is for.
#[derive(Clone, Debug)]
pub struct Operator(pub By);

/// The same in a project.
#[derive(Clone, Debug)]
pub struct InProject {
    pub by: By,
    project: Option<Id>,
}

impl InProject {
    /// # Errors
    /// 404 when there is no such project.
    pub fn project(&self) -> Result<Id, HttpError> {
        Ok(self.project.ok_or(Failure::NotFound("there is no such project"))?)
    }
}

/// The same on a node of a project.
#[derive(Clone, Debug)]
pub struct OnNode {
    pub by: By,
    project: Option<Id>,
    named: Option<String>,
    system_id: Option<String>,
    /// For what policy is to be asked beyond the route's own action.
    pub target: Target,
}

impl OnNode {
    /// What the URL names, for an action that says itself what is not there.
    ///
    /// # Errors
    /// 404 when there is no such project, or no node can have this name.
    pub fn named(&self) -> Result<(Id, String), HttpError> {
        match (self.project, &self.named) {
            (Some(project), Some(named)) => Ok((project, named.clone())),
            (None, _) => Err(Failure::NotFound("there is no such project").into()),
            (_, None) => Err(NO_SUCH_NODE.into()),
        }
    }

    /// # Errors
    /// 404 when the project has no such node.
    pub fn node(&self) -> Result<(Id, String), HttpError> {
        let (project, _) = self.named()?;
        self.system_id.clone().map(|id| (project, id)).ok_or_else(|| NO_SUCH_NODE.into())
    }
}

macro_rules! proof {
    ($name:ident, $allowed:ident => $made:expr) => {
        impl FromRequest for $name {
            type Error = HttpError;
            type Future = Ready<Result<$name, HttpError>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                // A route without its guard answers nobody.
                let allowed = request.extensions().get::<Allowed>().cloned();
                ready(allowed.map(|$allowed| $made).ok_or_else(HttpError::unauthenticated))
            }
        }
    };
}
proof!(Operator, allowed => Operator(allowed.by));
proof!(InProject, allowed => InProject { by: allowed.by, project: allowed.project });
proof!(OnNode, allowed => OnNode {
    by: allowed.by,
    project: allowed.project,
    named: allowed.named,
    system_id: allowed.system_id,
    target: allowed.target,
});
