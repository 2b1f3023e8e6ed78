//! What policy is told of stored objects: flat names, nothing of the request.

use serde_json::Value;

use crate::domain::identity::id_text;
use crate::domain::node::Labels;
use crate::domain::policy::Target;
use crate::store::columns::Id;

fn set(target: &mut Target, name: &str, value: impl Into<Value>) {
    target.insert(name.to_owned(), value.into());
}

/// The project that a node is in, or would be in.
pub fn of_project(target: &mut Target, id: Id, name: &str) {
    set(target, "node.project_id", id_text(id.0));
    set(target, "node.project_name", name);
}

pub fn of_node(target: &mut Target, system_id: &str, hostname: &str, labels: &Labels) {
    set(target, "node.system_id", system_id);
    set(target, "node.hostname", hostname);
    for (name, value) in labels.iter() {
        set(target, &format!("node.labels.{name}"), value);
    }
}

pub fn of_user(target: &mut Target, id: Id, name: &str) {
    set(target, "user.id", id_text(id.0));
    set(target, "user.name", name);
}

/// The project that is shown or changed itself.
pub fn of_tenant(target: &mut Target, id: Id, name: &str) {
    set(target, "project.id", id_text(id.0));
    set(target, "project.name", name);
}

/// An operator's token, by whose it is.
pub fn of_token(target: &mut Target, user: Id) {
    set(target, "token.user_id", id_text(user.0));
}
