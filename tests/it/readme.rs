//! The README's table of settings is the program's own.

use nodeinit::config::{SETTINGS, variable};

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
