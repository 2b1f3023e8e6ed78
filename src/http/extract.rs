//! The proofs: a handler that takes one of these needs no check and cannot miss one.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use super::error::HttpError;
use crate::domain::identity::Caller;

/// Who is at the other end of the admin socket, as the kernel says; kept with the connection.
#[derive(Clone, Copy, Debug)]
pub struct SocketPeer(pub Caller);

/// Somebody who may use the operator plane.
#[derive(Clone, Copy, Debug)]
pub struct Operator(pub Caller);

impl FromRequest for Operator {
    type Error = HttpError;
    type Future = Ready<Result<Operator, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(SocketPeer(caller)) = request.conn_data::<SocketPeer>() else {
            return ready(Err(HttpError::unauthenticated()));
        };
        let operator = Operator(*caller);
        request.extensions_mut().insert(operator);
        ready(Ok(operator))
    }
}
