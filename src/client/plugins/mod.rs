//! The plugins there are, and the table that the command line chooses from.

mod no_auth;
mod oauth1;
mod password;
mod service;
mod token;

pub use no_auth::NoAuth;
pub use oauth1::OAuth1;
pub use password::Password;
pub use service::Service;
pub use token::Token;

use super::ClientError;
use super::plugin::{AuthOption, AuthPlugin, Surroundings, Values};
use crate::domain::credentials::Secret;

/// The header of an operator's token.
pub const AUTH_TOKEN: &str = "x-auth-token";
/// The header of a service's token beside it.
pub const SERVICE_TOKEN: &str = "x-service-token";

type Build = fn(&PluginKind, Values, &Surroundings) -> Result<Box<dyn AuthPlugin>, ClientError>;

/// A plugin by its name.
pub struct PluginKind {
    pub name: &'static str,
    pub help: &'static str,
    /// What it needs.
    pub options: &'static [AuthOption],
    build: Build,
}

/// Every plugin, in the order of their names in the manual.
pub const PLUGINS: [PluginKind; 5] = [
    PluginKind {
        name: "none",
        help: "sends nothing: for the admin socket, which is proof enough",
        options: &[],
        build: |_, _, _| Ok(NoAuth.into()),
    },
    PluginKind {
        name: "token",
        help: "sends a token that is never renewed",
        options: &token::OPTIONS,
        build: |kind, values, _| Ok(token::build(kind.checked(values)?).into()),
    },
    PluginKind {
        name: "password",
        help: "logs in when it has to, and again when the token ends",
        options: &password::OPTIONS,
        build: |kind, values, around| {
            Ok(password::build(kind.checked(values)?, around.now.clone()).into())
        },
    },
    PluginKind {
        name: "service",
        help: "sends a user's token and, beside it, a service's that vouches for it",
        options: &service::OPTIONS,
        build: |_, values, around| Ok(service::build(values, around)?.into()),
    },
    PluginKind {
        name: "oauth1",
        help: "signs each request as a node does: to try the node plane",
        options: &oauth1::OPTIONS,
        build: |kind, values, around| Ok(oauth1::build(kind.checked(values)?, around)?.into()),
    },
];

impl PluginKind {
    #[must_use]
    pub fn find(name: &str) -> Option<&'static PluginKind> {
        static KINDS: [PluginKind; 5] = PLUGINS;
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// # Errors
    /// [`ClientError::Missing`] with everything that is missing, or [`ClientError::BadOption`].
    pub fn build(
        &self,
        values: Values,
        around: &Surroundings,
    ) -> Result<Box<dyn AuthPlugin>, ClientError> {
        (self.build)(self, values, around)
    }

    fn checked(&self, values: Values) -> Result<Values, ClientError> {
        let is_missing = |option: &&AuthOption| option.required && !is_given(&values, option.name);
        let missing: Vec<String> =
            self.options.iter().filter(is_missing).map(AuthOption::named).collect();
        if missing.is_empty() {
            return Ok(values);
        }
        Err(ClientError::Missing { plugin: self.name, options: missing })
    }
}

impl AuthOption {
    /// As it is told to somebody who has to give it.
    pub(super) fn named(&self) -> String {
        format!("{} ({})", self.name, self.variable)
    }
}

fn is_given(values: &Values, name: &str) -> bool {
    values.get(name).is_some_and(|value| !value.expose().is_empty())
}

/// Takes a value that [`PluginKind::checked`] found, or that may be absent.
fn take(values: &mut Values, name: &str) -> Option<Secret> {
    values.remove(name).filter(|value| !value.expose().is_empty())
}

fn text(values: &mut Values, name: &str) -> Option<String> {
    take(values, name).map(|value| value.expose().to_owned())
}

macro_rules! boxed {
    ($($plugin:ty),*) => {
        $(impl From<$plugin> for Box<dyn AuthPlugin> {
            fn from(plugin: $plugin) -> Self {
                Box::new(plugin)
            }
        })*
    };
}
boxed!(NoAuth, Token, Password, Service, OAuth1);
