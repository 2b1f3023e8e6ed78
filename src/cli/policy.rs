//! `nodeinit policy …`: files of rules are checked here, what is in force is the server's to say.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::Method;

use super::output::{self, Format};
use super::{Common, read_file};
use crate::domain::policy::{Place, Problem, compiled_in, eval_cases, from_file, list};

#[derive(Subcommand)]
pub enum Policy {
    /// Check a file of rules over the compiled-in ones, without a server
    Check {
        /// A path, or - for standard input
        file: PathBuf,
    },
    /// Print every action and the rule that answers for it
    Show {
        /// What the rules would be with this file, without a server
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Tell whether a user may do something, and why
    Explain {
        /// An action, or a rule that actions are written with; `policy show` lists them
        action: String,
        /// Who would do it, by name or id
        #[arg(long, value_name = "U")]
        user: String,
        /// In which project; the user's own by default
        #[arg(long, value_name = "P")]
        project: Option<String>,
        /// To which node
        #[arg(long, value_name = "N")]
        node: Option<String>,
        /// As if the user had this role and no other than those given
        #[arg(long = "role", value_name = "R")]
        roles: Vec<String>,
        /// To which user, or to whose token
        #[arg(long, value_name = "U")]
        target_user: Option<String>,
        /// To which project itself
        #[arg(long, value_name = "P")]
        target_project: Option<String>,
    },
    /// Evaluate cases, each with rules of its own, without a server
    Eval {
        #[arg(
            help = "{\"cases\": [{id, rules, default_rule, rule, creds, target}]} or a bare list"
        )]
        file: PathBuf,
    },
}

pub fn run(common: &Common, command: Policy) -> anyhow::Result<()> {
    match command {
        Policy::Check { file } => check(common, &file),
        Policy::Show { file: None } => {
            let shown = common.session()?.get("/v1/policy").context("policy show")?;
            show(common.output, &shown)
        }
        Policy::Show { file: Some(file) } => {
            let rules = from_file(&read_file(&file)?);
            let rules = rules.map_err(|error| refused(&file, &error.problems))?;
            show(common.output, &json!({"items": list(&rules)}))
        }
        Policy::Explain { action, user, project, node, roles, target_user, target_project } => {
            let mut question = json!({
                "action": action, "user": user, "project": project, "node": node,
                "target_user": target_user, "target_project": target_project,
            });
            if !roles.is_empty() {
                question["roles"] = json!(roles);
            }
            let path = "/v1/policy/explain";
            let answer = common.session()?.send_json(Method::POST, path, &question);
            explained(common.output, &answer.context("policy explain")?)
        }
        Policy::Eval { file } => {
            let text = String::from_utf8(read_file(&file)?).context("policy eval: not UTF-8")?;
            let results = eval_cases(&text).map_err(anyhow::Error::msg).context("policy eval")?;
            let items = results.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
            output::list(common.output, &["id", "load", "allow", "why"], &items)
        }
    }
}

fn check(common: &Common, file: &Path) -> anyhow::Result<()> {
    let rules = from_file(&read_file(file)?);
    let rules = rules.map_err(|error| refused(file, &error.problems))?;
    let own = compiled_in();
    let (overrides, adds): (Vec<&String>, Vec<&String>) =
        rules.overridden().iter().partition(|name| own.spelling(name).is_some());
    if common.output != Format::Table {
        return output::object(common.output, &json!({"overrides": overrides, "adds": adds}));
    }
    let (file, overrides, adds) = (file.display(), overrides.len(), adds.len());
    let said = format!("{file}: good: overrides {overrides} rules and adds {adds}\n");
    output::bytes(said.as_bytes())
}

/// Every problem on a line of its own, where an editor looks for it.
fn refused(file: &Path, problems: &[Problem]) -> anyhow::Error {
    let line = |problem: &Problem| {
        let place = problem.place.map(|Place { line, column }| format!("{line}:{column}:"));
        let unplaced = Problem { place: None, ..problem.clone() };
        format!("{}:{} {unplaced}", file.display(), place.unwrap_or_default())
    };
    let lines: Vec<String> = problems.iter().map(line).collect();
    anyhow::anyhow!("the policy file is refused\n{}", lines.join("\n"))
}

/// What is wrong with the policy file of a server to be.
pub fn problems(file: &Path) -> Vec<String> {
    let read = std::fs::read(file).map_err(|error| vec![format!("{}: {error}", file.display())]);
    let checked = read.and_then(|bytes| {
        from_file(&bytes).map(drop).map_err(|error| {
            error.problems.iter().map(|p| format!("{}: {p}", file.display())).collect()
        })
    });
    checked.err().unwrap_or_default()
}

fn show(format: Format, shown: &Value) -> anyhow::Result<()> {
    let items = shown["items"].as_array().cloned().unwrap_or_default();
    if format != Format::Table {
        return output::list(format, &[], &items);
    }
    for problem in shown["file"]["problems"].as_array().into_iter().flatten() {
        let (path, problem) = (shown["file"]["path"].as_str(), problem.as_str());
        let (path, problem) = (path.unwrap_or_default(), problem.unwrap_or_default());
        eprintln!("nodeinit: warning: not in force: {path}: {}", output::plain(problem));
    }
    let from = |item: &Value| if item["overridden"] == true { "file" } else { "default" };
    let rows = items.iter().map(|item| {
        json!({"action": item["action"], "from": from(item), "rule": item["rule"], "what": item["help"]})
    });
    let helpers = shown["helpers"].as_array().into_iter().flatten().map(|helper| {
        let name = format!("rule:{}", helper["name"].as_str().unwrap_or_default());
        json!({"action": name, "from": from(helper), "rule": helper["rule"], "what": ""})
    });
    let rows: Vec<Value> = rows.chain(helpers).collect();
    output::list(format, &["action", "from", "rule", "what"], &rows)
}

fn explained(format: Format, answer: &Value) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::object(format, answer);
    }
    let mut out = std::io::stdout();
    writeln!(out, "{}", if answer["allow"] == true { "allowed" } else { "denied" })?;
    for key in ["notes", "why"] {
        for line in answer[key].as_array().into_iter().flatten() {
            writeln!(out, "{}", output::plain(line.as_str().unwrap_or_default()))?;
        }
    }
    Ok(())
}
