//! `none`: the socket needs no proof.

use super::super::plugin::{
    AuthHeaders, AuthPlugin, Generation, Provides, RequestHead, ResponseHead, Transport, Verdict,
};
use super::ClientError;

/// Adds nothing to a request.
pub struct NoAuth;

impl AuthPlugin for NoAuth {
    fn name(&self) -> &'static str {
        "none"
    }

    fn provides(&self, _: &dyn Transport) -> Result<Provides, ClientError> {
        Ok(Provides::default())
    }

    fn headers(
        &self,
        _: &dyn Transport,
        _: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        Ok(Some(AuthHeaders::default()))
    }

    fn verdict(&self, _: &dyn Transport, _: Generation, _: &ResponseHead<'_>) -> Verdict {
        Verdict::Accept
    }
}
