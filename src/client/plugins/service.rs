//! `service`: a user's token with a service's beside it, so that a long job outlives the user's
//! hour.

use super::super::plugin::{
    AuthHeaders, AuthOption, AuthPlugin, Generation, Provides, RequestHead, ResponseHead,
    Surroundings, Transport, Values, Verdict,
};
use super::{AUTH_TOKEN, ClientError, Password, SERVICE_TOKEN, Token, take, text};
use crate::domain::credentials::Secret;

pub const OPTIONS: [AuthOption; 8] = [
    option("token", true, "NODEINIT_TOKEN", "The user's token; or else their name and password"),
    option("user", false, "NODEINIT_USER", "The user's name, where there is no token"),
    option("password", true, "NODEINIT_PASSWORD", "The user's password"),
    option("project", false, "NODEINIT_PROJECT", "The project to work in"),
    option(
        "service-token",
        true,
        "NODEINIT_SERVICE_TOKEN",
        "The service's token; or else its name and password",
    ),
    option(
        "service-user",
        false,
        "NODEINIT_SERVICE_USER",
        "The service's name, where there is no token",
    ),
    option("service-password", true, "NODEINIT_SERVICE_PASSWORD", "The service's password"),
    option(
        "service-project",
        false,
        "NODEINIT_SERVICE_PROJECT",
        "The project in which it holds the role service",
    ),
];

/// None is required by itself: each half is a token, or a name and a password.
const fn option(
    name: &'static str,
    secret: bool,
    variable: &'static str,
    help: &'static str,
) -> AuthOption {
    AuthOption { name, required: false, secret, variable, help }
}

pub(super) fn build(mut values: Values, around: &Surroundings) -> Result<Service, ClientError> {
    let mut missing = Vec::new();
    let user = half(&mut values, around, [0, 1, 2, 3], &mut missing);
    let service = half(&mut values, around, [4, 5, 6, 7], &mut missing);
    match user.zip(service) {
        Some((user, service)) => Ok(Service::new(user, service)),
        None => Err(ClientError::Missing { plugin: "service", options: missing }),
    }
}

/// The half whose token, user, password and project are these options.
fn half(
    values: &mut Values,
    around: &Surroundings,
    places: [usize; 4],
    missing: &mut Vec<String>,
) -> Option<Box<dyn AuthPlugin>> {
    let [token, user, password, project] = places.map(|place| &OPTIONS[place]);
    let project = text(values, project.name);
    if let Some(token) = take(values, token.name) {
        return Some(Token::new(token, project).into());
    }
    match (text(values, user.name), take(values, password.name)) {
        (Some(user), Some(password)) => {
            Some(Password::new(user, password, project, around.now.clone()).into())
        }
        (None, None) => {
            let [token, user, password] = [token, user, password].map(AuthOption::named);
            missing.push(format!("{token} or {user} and {password}"));
            None
        }
        (given, _) => {
            missing.push(if given.is_some() { password.named() } else { user.named() });
            None
        }
    }
}

/// Sends `X-Auth-Token` of one plugin and `X-Service-Token` of another.
pub struct Service {
    user: Box<dyn AuthPlugin>,
    service: Box<dyn AuthPlugin>,
}

impl Service {
    #[must_use]
    pub fn new(
        user: impl Into<Box<dyn AuthPlugin>>,
        service: impl Into<Box<dyn AuthPlugin>>,
    ) -> Service {
        Service { user: user.into(), service: service.into() }
    }
}

/// The token in what a half would send.
fn token(headers: AuthHeaders) -> Option<(Secret, u64)> {
    let generation = headers.generation.user;
    let token = headers.fields.into_iter().find(|(name, _)| *name == AUTH_TOKEN)?.1;
    Some((token, generation))
}

impl AuthPlugin for Service {
    fn name(&self) -> &'static str {
        "service"
    }

    fn provides(&self, transport: &dyn Transport) -> Result<Provides, ClientError> {
        self.user.provides(transport)
    }

    fn headers(
        &self,
        transport: &dyn Transport,
        request: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        // Without a user the service would be taken for the caller: then nothing is sent at all.
        let Some((user, user_generation)) = self.user.headers(transport, request)?.and_then(token)
        else {
            return Ok(None);
        };
        let Some((service, service_generation)) =
            self.service.headers(transport, request)?.and_then(token)
        else {
            return Ok(None);
        };
        Ok(Some(AuthHeaders {
            fields: vec![(AUTH_TOKEN, user), (SERVICE_TOKEN, service)],
            generation: Generation { user: user_generation, service: service_generation },
        }))
    }

    /// Which half the server did not like is not told, so each that can renew itself does.
    fn verdict(
        &self,
        transport: &dyn Transport,
        sent: Generation,
        response: &ResponseHead<'_>,
    ) -> Verdict {
        let of = |user| Generation { user, service: 0 };
        let user = self.user.verdict(transport, of(sent.user), response);
        if let Verdict::Fail(_) = user {
            return user;
        }
        let service = self.service.verdict(transport, of(sent.service), response);
        match (user, service) {
            (_, Verdict::Fail(error)) => Verdict::Fail(error),
            (Verdict::Resend, _) | (_, Verdict::Resend) => Verdict::Resend,
            _ => Verdict::Accept,
        }
    }
}
