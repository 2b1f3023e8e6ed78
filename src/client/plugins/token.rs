//! `token`: a token from somewhere else, sent until it ends.

use std::sync::Mutex;

use super::super::identity;
use super::super::plugin::{
    AuthHeaders, AuthOption, AuthPlugin, Generation, Provides, RequestHead, ResponseHead,
    Transport, Values, Verdict,
};
use super::{AUTH_TOKEN, ClientError, text};
use crate::domain::credentials::Secret;

pub const OPTIONS: [AuthOption; 2] = [
    AuthOption {
        name: "token",
        required: true,
        secret: true,
        variable: "NODEINIT_TOKEN",
        help: "The token, as `nodeinit login` prints it",
    },
    AuthOption {
        name: "project",
        required: false,
        secret: false,
        variable: "NODEINIT_PROJECT",
        help: "The token's project; the server is asked for it otherwise",
    },
];

pub(super) fn build(mut values: Values) -> Token {
    let token = values.remove("token").unwrap_or_else(|| Secret::new(String::new()));
    Token::new(token, text(&mut values, "project"))
}

/// Sends `X-Auth-Token`. A 401 stands: there is nothing to renew it with.
pub struct Token {
    token: Secret,
    provides: Mutex<Option<Provides>>,
}

impl Token {
    /// `project` is the token's; the server is asked for it when it is not given.
    #[must_use]
    pub fn new(token: Secret, project: Option<String>) -> Token {
        let known =
            project.map(|project| Provides { project: Some(project), ..Provides::default() });
        Token { token, provides: Mutex::new(known) }
    }
}

impl AuthPlugin for Token {
    fn name(&self) -> &'static str {
        "token"
    }

    fn provides(&self, transport: &dyn Transport) -> Result<Provides, ClientError> {
        let mut known = super::password::lock(&self.provides);
        if let Some(provides) = &*known {
            return Ok(provides.clone());
        }
        let provides = identity::who(transport, &self.token)?;
        Ok(known.insert(provides).clone())
    }

    fn headers(
        &self,
        _: &dyn Transport,
        _: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        if self.token.expose().is_empty() {
            return Ok(None);
        }
        let token = Secret::new(self.token.expose().to_owned());
        Ok(Some(AuthHeaders {
            fields: vec![(AUTH_TOKEN, token)],
            generation: Generation::default(),
        }))
    }

    fn verdict(&self, _: &dyn Transport, _: Generation, _: &ResponseHead<'_>) -> Verdict {
        Verdict::Accept
    }
}
