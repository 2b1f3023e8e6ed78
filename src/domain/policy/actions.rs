//! Every action of the service: its stable name, the rule compiled in, and what it is.

use schemars::JsonSchema;
use serde::Serialize;

use super::{LoadError, Names, Place, Problem, Rules};

/// The rules that actions are written with.
const HELPERS: [(&str, &str); 7] = [
    ("admin_required", "role:admin"),
    // An expired token that a service carries on never changes an identity.
    ("fresh", "token_expired:False"),
    ("owner", "project_id:%(node.project_id)s"),
    ("reader", "rule:admin_required or (rule:owner and (role:reader or role:provisioner))"),
    ("provisioner", "rule:admin_required or (rule:owner and role:provisioner)"),
    ("fresh_admin", "rule:admin_required and rule:fresh"),
    ("default", "rule:admin_required"),
];

macro_rules! actions {
    ($($name:ident $text:literal $rule:literal $help:literal;)*) => {
        /// Something a caller may do or not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action {
            $(#[doc = $help] $name,)*
        }

        impl Action {
            pub const ALL: &'static [Action] = &[$(Action::$name,)*];

            /// The name that a policy file uses.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Action::$name => $text,)* }
            }

            /// The rule that holds unless a policy file has another.
            #[must_use]
            pub fn default_rule(self) -> &'static str {
                match self { $(Action::$name => $rule,)* }
            }

            /// What it is, in a few words.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Action::$name => $help,)* }
            }
        }
    };
}

actions! {
    NodeList "node:list" "rule:reader" "list the nodes of a project";
    NodeShow "node:show" "rule:reader" "show a node";
    NodeCreate "node:create" "rule:provisioner" "add nodes";
    NodeChange "node:change" "rule:provisioner" "change a node";
    NodeMove "node:move" "rule:admin_required" "move a node to another project";
    NodeReprovision "node:reprovision" "rule:provisioner" "have a node installed anew: its tokens end, its instance-id changes";
    NodeRemove "node:remove" "rule:provisioner" "remove a node";
    UserDataShow "user-data:show" "rule:reader" "read a node's user-data and its history";
    UserDataSet "user-data:set" "rule:provisioner" "replace or clear a node's user-data";
    VendorDataShow "vendor-data:show" "rule:reader" "read a node's vendor-data and its history";
    VendorDataSet "vendor-data:set" "rule:provisioner" "replace or clear a node's vendor-data";
    TokenGet "token:get" "rule:provisioner" "get the credentials of nodes, made if need be";
    TokenShow "token:show" "rule:reader" "show a node's token without its secret";
    TokenRevoke "token:revoke" "rule:provisioner" "end a node's tokens";
    TokenReissue "token:reissue" "rule:provisioner" "give a node a new token that replaces its old one at first use";
    TokenList "token:list" "rule:admin_required" "list the tokens of the whole fleet";
    TokenCull "token:cull" "rule:admin_required" "end the stale tokens of the whole fleet";
    Preseed "preseed:get" "rule:provisioner" "get a node's preseed, which holds its credentials";
    ClaimCreate "claim:create" "rule:provisioner" "make a URL that a booting node may fetch its preseed from";
    EventList "event:list" "rule:reader" "read what a node reported, and the files with it";
    EventListAll "event:list-all" "rule:admin_required" "read what the whole fleet reported";
    TimelineShow "timeline:show" "rule:reader" "see how a node came to where it is";
    StuckList "stuck:list" "rule:admin_required" "list the nodes of the whole fleet that have stopped on their way";
    NodeExplain "node:explain" "rule:reader" "see why a node is refused";
    AuditList "audit:list" "rule:admin_required" "read the audit";
    AuditVerify "audit:verify" "rule:admin_required" "check that the audit is whole";
    PolicyShow "policy:show" "rule:admin_required" "see the rules, their state, and what they decide";
    Whoami "identity:whoami" "@" "see who one is";
    Bootstrap "identity:bootstrap" "socket:True" "make or reset the first admin";
    TokenValidate "identity:validate" "rule:admin_required or role:service or user_id:%(token.user_id)s" "check an operator's token";
    TokenRevokeOperator "identity:revoke" "rule:admin_required or user_id:%(token.user_id)s" "end an operator's token";
    UserList "user:list" "rule:admin_required" "list the users";
    UserShow "user:show" "rule:admin_required or user_id:%(user.id)s" "show a user";
    UserCreate "user:create" "rule:fresh_admin" "make a user";
    UserChange "user:change" "rule:fresh_admin" "change, enable or disable a user";
    UserRemove "user:remove" "rule:fresh_admin" "remove a user";
    UserPassword "user:password" "rule:fresh and (rule:admin_required or user_id:%(user.id)s)" "set a user's password";
    ProjectList "project:list" "@" "list the projects: all for an admin, else one's own";
    ProjectShow "project:show" "rule:admin_required or project_id:%(project.id)s" "show a project";
    ProjectCreate "project:create" "rule:fresh_admin" "make a project";
    ProjectChange "project:change" "rule:fresh_admin" "change, enable or disable a project";
    ProjectRemove "project:remove" "rule:fresh_admin" "remove an empty project";
    RoleList "role:list" "rule:admin_required or user_id:%(user.id)s" "see what a user is in a project";
    RoleGrant "role:grant" "rule:fresh_admin" "give a user a role in a project";
    RoleRevoke "role:revoke" "rule:fresh_admin" "take a user's role in a project away";
}

impl Action {
    /// Whether it changes who may do what: never with an expired token, whatever a file says.
    #[must_use]
    pub fn changes_identity(self) -> bool {
        matches!(
            self,
            Action::Bootstrap
                | Action::TokenRevokeOperator
                | Action::UserCreate
                | Action::UserChange
                | Action::UserRemove
                | Action::UserPassword
                | Action::ProjectCreate
                | Action::ProjectChange
                | Action::ProjectRemove
                | Action::RoleGrant
                | Action::RoleRevoke
        )
    }

    /// The names that a policy file may define.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Action::ALL.iter().map(|action| action.name()).collect()
    }
}

/// The rules that are compiled in.
///
/// # Panics
/// Never: a test loads them.
#[must_use]
pub fn compiled_in() -> Rules {
    let actions = Action::ALL.iter().map(|action| (action.name(), action.default_rule()));
    let table: Vec<_> = HELPERS.into_iter().chain(actions).collect();
    Rules::defaults(&table).expect("the compiled-in rules are sound: a test loads them")
}

/// The rules of a policy file over those that are compiled in: what a server runs by.
///
/// # Errors
/// Every reason why the file is refused.
pub fn from_file(bytes: &[u8]) -> Result<Rules, LoadError> {
    match std::str::from_utf8(bytes) {
        Ok(yaml) => Rules::load(yaml, &compiled_in(), Names::Known(&Action::names())),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let last = before.rsplit('\n').next().unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let place = Some(Place { line, column: last.chars().count() + 1 });
            Err(LoadError::new(vec![Problem { place, rule: None, message: "not UTF-8".into() }]))
        }
    }
}

/// An action and the rule that answers for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Listed {
    pub action: &'static str,
    pub rule: String,
    /// The rule that is compiled in.
    pub default: String,
    /// Whether a file has a rule for it.
    pub overridden: bool,
    pub help: &'static str,
}

/// Every action, by name.
#[must_use]
pub fn list(rules: &Rules) -> Vec<Listed> {
    let defaults = compiled_in();
    let mut listed: Vec<Listed> = Action::ALL
        .iter()
        .map(|action| Listed {
            action: action.name(),
            rule: rules.spelling(action.name()).unwrap_or_default(),
            default: defaults.spelling(action.name()).unwrap_or_default(),
            overridden: rules.overridden().contains(action.name()),
            help: action.help(),
        })
        .collect();
    listed.sort_unstable_by_key(|listed| listed.action);
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_rules_are_sound_and_name_every_action_once() {
        let rules = compiled_in();
        let named: Vec<String> = rules.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(named.len(), HELPERS.len() + Action::ALL.len());
        for action in Action::ALL {
            assert!(named.iter().any(|name| name == action.name()), "{}", action.name());
        }
    }
}
