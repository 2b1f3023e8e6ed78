//! `password`: logs in when a request needs it, reuses the token, and renews it once for all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;
use ureq::http::StatusCode;

use super::super::identity::{self, Login};
use super::super::plugin::{
    AuthHeaders, AuthOption, AuthPlugin, Generation, Now, Provides, RequestHead, ResponseHead,
    Transport, Values, Verdict,
};
use super::{AUTH_TOKEN, ClientError, text};
use crate::domain::credentials::Secret;

pub const OPTIONS: [AuthOption; 3] = [
    AuthOption {
        name: "user",
        required: true,
        secret: false,
        variable: "NODEINIT_USER",
        help: "The user's name",
    },
    AuthOption {
        name: "password",
        required: true,
        secret: true,
        variable: "NODEINIT_PASSWORD",
        help: "The user's password; or --password-file FILE|-, or asked for at a terminal",
    },
    AuthOption {
        name: "project",
        required: false,
        secret: false,
        variable: "NODEINIT_PROJECT",
        help: "The project to work in; otherwise the user's own",
    },
];

/// A token that ends sooner is renewed before it is sent, so that it does not end on the way.
const MARGIN: SignedDuration = SignedDuration::from_secs(120);

pub(super) fn build(mut values: Values, now: Now) -> Password {
    let user = text(&mut values, "user").unwrap_or_default();
    let password = values.remove("password").unwrap_or_else(|| Secret::new(String::new()));
    Password::new(user, password, text(&mut values, "project"), now)
}

/// Logs in at `POST /v2.0/tokens`.
pub struct Password {
    user: String,
    secret: Secret,
    project: Option<String>,
    now: Now,
    /// Logins that have ended, well or not: read before waiting for the lock.
    ended: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts the tokens.
    generation: u64,
    login: Option<Login>,
    /// Why the last login failed, if it did.
    failure: Option<ClientError>,
}

impl Password {
    #[must_use]
    pub fn new(user: String, password: Secret, project: Option<String>, now: Now) -> Password {
        let (ended, state) = (AtomicU64::new(0), Mutex::default());
        Password { user, secret: password, project, now, ended, state }
    }

    /// A state whose token is not `refused` and lives on. The lock is held while logging in: who
    /// comes meanwhile waits, and takes what came of it, a failure too.
    fn current(
        &self,
        transport: &dyn Transport,
        refused: Option<u64>,
    ) -> Result<MutexGuard<'_, State>, ClientError> {
        let seen = self.ended.load(Ordering::SeqCst);
        let mut state = lock(&self.state);
        let has_waited = self.ended.load(Ordering::SeqCst) != seen;
        let is_refused = refused == Some(state.generation);
        let lives = state.login.as_ref().map(|login| self.life(login));
        if lives.is_some() && !is_refused && (has_waited || lives > Some(MARGIN)) {
            return Ok(state);
        }
        if has_waited && let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let done = identity::login(transport, &self.user, &self.secret, self.project.as_deref());
        self.ended.fetch_add(1, Ordering::SeqCst);
        match done {
            Ok(login) => {
                state.generation += 1;
                state.login = Some(login);
                state.failure = None;
                Ok(state)
            }
            // What is left of the old token will do for now.
            Err(_) if !is_refused && lives > Some(SignedDuration::ZERO) => Ok(state),
            Err(error) => {
                let error = ClientError::Login(Box::new(error));
                state.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// How much life a token has left by our clock. One that does not say never ends.
    fn life(&self, login: &Login) -> SignedDuration {
        login.expires_at.map_or(SignedDuration::MAX, |end| end.duration_since((self.now)()))
    }
}

impl AuthPlugin for Password {
    fn name(&self) -> &'static str {
        "password"
    }

    fn provides(&self, transport: &dyn Transport) -> Result<Provides, ClientError> {
        let state = self.current(transport, None)?;
        let login = state.login.as_ref();
        Ok(Provides {
            user: login.and_then(|login| login.user.clone()),
            project: login.and_then(|login| login.project.clone()).or(self.project.clone()),
            expires_at: login.and_then(|login| login.expires_at),
        })
    }

    fn headers(
        &self,
        transport: &dyn Transport,
        _: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        let state = self.current(transport, None)?;
        let generation = Generation { user: state.generation, service: 0 };
        Ok(state.login.as_ref().map(|login| AuthHeaders {
            fields: vec![(AUTH_TOKEN, Secret::new(login.token.expose().to_owned()))],
            generation,
        }))
    }

    fn verdict(
        &self,
        transport: &dyn Transport,
        sent: Generation,
        response: &ResponseHead<'_>,
    ) -> Verdict {
        if response.status != StatusCode::UNAUTHORIZED {
            return Verdict::Accept;
        }
        match self.current(transport, Some(sent.user)) {
            Ok(_) => Verdict::Resend,
            Err(error) => Verdict::Fail(error),
        }
    }
}

/// A panic while it was held leaves a state that is as good as before.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
