//! What the tests of the node plane share: its paths, and what every refusal looks like.

use super::Reply;

/// Every path below `/MAAS/metadata` that answers a signed GET, as cloud-init writes it.
pub const READS: [&str; 8] = [
    "/",
    "/2012-03-01/",
    "/2012-03-01/meta-data/",
    "/2012-03-01/meta-data/instance-id",
    "/2012-03-01/meta-data/local-hostname",
    "/2012-03-01/meta-data/public-keys",
    "/2012-03-01/meta-data/vendor-data",
    "/2012-03-01/user-data",
];

/// The whole of a refusal: 401, its one public code, and a `Date` a client can mend its clock by.
#[track_caller]
pub fn assert_refused(reply: &Reply, code: &str) {
    assert_eq!(reply.brief(), (401, code.to_owned()), "{reply:?}");
    assert_eq!(reply.header("www-authenticate"), Some("OAuth realm=\"nodeinit\""));
    date(reply);
}

/// The `Date` of an answer in seconds, which is an IMF-fixdate (RFC 9110 §5.6.7).
#[track_caller]
pub fn date(reply: &Reply) -> i64 {
    let date = reply.header("date").unwrap_or_else(|| panic!("no Date: {reply:?}"));
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    jiff::fmt::rfc2822::parse(date).unwrap().timestamp().as_second()
}

/// An answer without what differs from one to the next by design.
pub fn without_names(mut reply: Reply) -> Reply {
    reply.headers.retain(|(name, _)| name != "date" && name != "x-request-id");
    // actix keeps them in a hash map, so their order is chance.
    reply.headers.sort();
    reply
}
