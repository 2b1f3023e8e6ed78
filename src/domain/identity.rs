//! Operators: who they are, what they may be called, which roles they hold, and who is calling.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::policy::Creds;

/// What an operator may be in a project. An admin of any project is admin of the whole service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Admin,
    Provisioner,
    Reader,
    /// A program that acts for people whose tokens may run out meanwhile.
    Service,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Admin, Role::Provisioner, Role::Reader, Role::Service];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Provisioner => "provisioner",
            Role::Reader => "reader",
            Role::Service => "service",
        }
    }

    /// Case counts: policy compares roles without it, so an `Admin` would be an admin.
    #[must_use]
    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A user's or a project's name, kept as given and compared without the case of its letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// 1 to 255 of `[A-Za-z0-9._@+-]`, blanks around it dropped.
    ///
    /// # Errors
    /// A sentence that says what a name is.
    pub fn parse(text: &str) -> Result<Name, String> {
        let text = text.trim_matches([' ', '\t']);
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._@+-".contains(&b);
        if (1..=255).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Name(text.to_owned()))
        } else {
            Err("a name is 1 to 255 letters, digits, '.', '_', '@', '+' or '-'".into())
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What two names that differ in case alone have in common.
    #[must_use]
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// An id of a user or a project as it stands in URLs and answers: 32 hexadecimal digits.
#[must_use]
pub fn id_text(id: Uuid) -> String {
    id.simple().to_string()
}

/// Something of the store that has an id and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub id: Uuid,
    pub name: String,
}

/// What a good token says of its bearer, read anew whenever any identity has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: Named,
    /// `None`: the token is good for looking around and for asking for a scoped one.
    pub project: Option<Named>,
    pub roles: BTreeSet<Role>,
    pub expires_at: Timestamp,
    /// The public name of the token, for logs and audit.
    pub audit_id: String,
}

/// The service that sent its own token beside the user's, and how far the user's is overrun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub user: Named,
    pub roles: BTreeSet<Role>,
    /// How long the user's token had been expired; `None` while it lives.
    pub overrun: Option<SignedDuration>,
}

/// A caller whom the operator plane has recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The right to open the admin socket is the proof, and the kernel says who did.
    Socket {
        uid: u32,
        pid: Option<i32>,
    },
    Operator {
        identity: Arc<Identity>,
        service: Option<Service>,
    },
}

impl Caller {
    #[must_use]
    pub fn is_socket(&self) -> bool {
        matches!(self, Caller::Socket { .. })
    }

    #[must_use]
    pub fn roles(&self) -> BTreeSet<Role> {
        match self {
            Caller::Socket { .. } => BTreeSet::from([Role::Admin]),
            Caller::Operator { identity, .. } => identity.roles.clone(),
        }
    }

    /// Whether the user's own token has run out and a service's token carries it on.
    #[must_use]
    pub fn token_expired(&self) -> bool {
        match self {
            Caller::Socket { .. } => false,
            Caller::Operator { service, .. } => {
                service.as_ref().is_some_and(|service| service.overrun.is_some())
            }
        }
    }

    #[must_use]
    pub fn user_id(&self) -> Option<Uuid> {
        match self {
            Caller::Socket { .. } => None,
            Caller::Operator { identity, .. } => Some(identity.user.id),
        }
    }

    /// What policy knows of the caller. There is no secret in it.
    #[must_use]
    pub fn creds(&self) -> Creds {
        let names = |roles: &BTreeSet<Role>| -> Vec<Value> {
            roles.iter().map(|role| json!(role.as_str())).collect()
        };
        let (user, project, service) = match self {
            Caller::Socket { .. } => (None, None, None),
            Caller::Operator { identity, service } => {
                (Some(&identity.user), identity.project.as_ref(), service.as_ref())
            }
        };
        let id = |named: Option<&Named>| json!(named.map(|named| id_text(named.id)));
        let name = |named: Option<&Named>| json!(named.map(|named| named.name.as_str()));
        let service_user = service.map(|service| &service.user);
        let service_roles = service.map(|service| names(&service.roles)).unwrap_or_default();
        [
            ("user_id", id(user)),
            ("user_name", name(user)),
            ("project_id", id(project)),
            ("project_name", name(project)),
            ("roles", json!(names(&self.roles()))),
            ("token_expired", json!(self.token_expired())),
            ("service_user_id", id(service_user)),
            ("service_user_name", name(service_user)),
            ("service_roles", json!(service_roles)),
            ("socket", json!(self.is_socket())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Caller::Socket { uid, pid: Some(pid) } => write!(f, "socket uid={uid} pid={pid}"),
            Caller::Socket { uid, pid: None } => write!(f, "socket uid={uid}"),
            Caller::Operator { identity, service } => {
                write!(f, "user {}", identity.user.name)?;
                if let Some(project) = &identity.project {
                    write!(f, " project {}", project.name)?;
                }
                if let Some(service) = service {
                    write!(f, " service {}", service.user.name)?;
                    if let Some(overrun) = service.overrun {
                        write!(f, " overrun {}s", overrun.as_secs())?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Who makes a change and in which request: what audit and the log note beside it.
#[derive(Clone, Debug)]
pub struct By {
    pub caller: Caller,
    pub request_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_trimmed_and_plain() {
        assert_eq!(Name::parse("  bob ").unwrap().as_str(), "bob");
        assert!(Name::parse(&"x".repeat(255)).is_ok());
        for bad in ["", "   ", "a b", "a\nb", "a\u{202e}b", "é", &"x".repeat(256)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_role_is_lower_case() {
        assert_eq!(Role::parse("admin"), Some(Role::Admin));
        assert_eq!(Role::parse("Admin"), None);
    }
}
