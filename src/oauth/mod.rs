//! stub
use std::borrow::Cow;
pub struct Claim<'h> {
    pub consumer_key: Cow<'h, str>,
    pub token_key: Cow<'h, str>,
    pub method: Method,
    pub timestamp: Option<u64>,
    pub nonce: Option<Cow<'h, str>>,
}
#[derive(PartialEq)]
pub enum Method {
    Plaintext,
    HmacSha1,
    HmacSha256,
}
pub struct Malformed;
impl Malformed {
    pub fn reason(&self) -> &'static str {
        ""
    }
    pub fn is_missing(&self) -> bool {
        true
    }
}
impl<'h> Claim<'h> {
    pub fn parse(_: &'h [u8]) -> Result<Claim<'h>, Malformed> {
        Err(Malformed)
    }
}
pub struct SignedRequest<'r> {
    pub method: &'r str,
    pub scheme: &'r str,
    pub host: &'r str,
    pub target: &'r str,
    pub form: Option<&'r [u8]>,
}
pub fn verify(_: &Claim<'_>, _: &SignedRequest<'_>, _: &str, _: &str) -> bool {
    false
}
