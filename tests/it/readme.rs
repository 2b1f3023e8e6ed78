//! The README's tables of settings are the program's own, and its example of a policy file loads.

use nodeinit::client::PLUGINS;
use nodeinit::config::{SETTINGS, variable};
use nodeinit::domain::policy::from_file;

const README: &str = include_str!("../../README.md");

#[test]
fn the_readme_lists_every_setting_as_it_is_and_no_other() {
    let rows: Vec<String> = SETTINGS
        .iter()
        .map(|s| {
            format!(
                "| {} | `--{} {}` | `{}` | `{}` | {} |",
                s.section,
                s.name,
                s.value.replace('|', "\\|"),
                variable(s.name),
                s.default,
                s.help.replace('|', "\\|")
            )
        })
        .collect();
    for row in &rows {
        assert!(README.contains(row.as_str()), "README.md lacks or misstates:\n{row}");
    }
    let listed = README.lines().filter(|line| line.contains("| `NODEINIT_")).count();
    assert_eq!(listed, rows.len(), "README.md lists settings that are none:\n{}", rows.join("\n"));
}

#[test]
fn the_readme_lists_what_every_plugin_needs_and_nothing_else() {
    let mut rows = Vec::new();
    for kind in PLUGINS {
        rows.extend(kind.options.iter().map(|option| {
            format!(
                "| {} | {}: `{}` | {} | {} |",
                kind.name,
                option.name,
                option.variable,
                if option.required { "yes" } else { "no" },
                option.help.replace('|', "\\|")
            )
        }));
    }
    for row in &rows {
        assert!(README.contains(row.as_str()), "README.md lacks or misstates:\n{row}");
    }
    let listed = README.lines().filter(|line| line.contains(": `NODEINIT_")).count();
    assert_eq!(listed, rows.len(), "README.md lists options that are none");
}

#[test]
fn the_readmes_policy_file_is_one() {
    let example = README.split("```\n").find(|block| block.starts_with("node:remove: ")).unwrap();
    let rules = from_file(example.as_bytes()).map_err(|error| error.to_string()).unwrap();
    assert_eq!(rules.overridden().len(), example.lines().count());
}
