//! The templates of preseeds: those compiled in, and an operator's directory over them.

use std::fs::DirEntry;
use std::path::Path;

use crate::domain::preseed::{Format, Templates};

/// Larger than any preseed; a file that is larger is something else.
const MOST_BYTES: u64 = 1 << 20;

/// Everything that is wrong with an operator's templates, one line a problem.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadTemplates(pub Vec<String>);

/// Reads the templates that `dir` has by the names of the formats; the others are the compiled-in
/// ones.
pub fn load(dir: Option<&Path>) -> Result<Templates, BadTemplates> {
    let mut templates = Templates::built_in();
    let Some(dir) = dir else { return Ok(templates) };
    let unreadable = |path: &Path, why: &dyn std::fmt::Display| {
        format!("{}: cannot be read: {why}", path.display())
    };
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<DirEntry>, _>>);
    let mut entries = entries.map_err(|why| BadTemplates(vec![unreadable(dir, &why)]))?;
    entries.sort_by_key(DirEntry::file_name);

    let mut problems = Vec::new();
    for path in entries.iter().map(DirEntry::path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue; // an editor's, or a volume's own
        }
        let format = match Format::parse(&name) {
            Ok(format) => format,
            Err(why) => {
                problems.push(format!("{}: it overrides no template: {why}", path.display()));
                continue;
            }
        };
        match read(&path) {
            Ok(text) => {
                let flaws = templates.replace(format, &text).err().unwrap_or_default();
                let told =
                    flaws.iter().map(|f| format!("{}:{}: {}", path.display(), f.line, f.why));
                problems.extend(told);
            }
            Err(why) => problems.push(unreadable(&path, &why)),
        }
    }
    if problems.is_empty() { Ok(templates) } else { Err(BadTemplates(problems)) }
}

fn read(path: &Path) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|why| why.to_string())?;
    // A pipe would be waited for.
    if !about.is_file() {
        return Err("it is no file".into());
    }
    if about.len() > MOST_BYTES {
        return Err(format!("it is larger than {MOST_BYTES} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|why| why.to_string())?;
    String::from_utf8(bytes).map_err(|why| {
        let good = String::from_utf8_lossy(&why.as_bytes()[..why.utf8_error().valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_every_template_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write(".swp", b"{{");
        write("curl", b"echo {{ token_secret }}\n");
        assert!(load(Some(dir.path())).is_ok());

        write("cloud-config", b"datasource: {{ tokn }}\n{{ x\n");
        write("cmdline", b"a {{ token_secret }}\nb\n");
        write("debconf", b"a\n\xff\n");
        write("cloud-config.bak", b"");
        std::fs::create_dir(dir.path().join("curtin")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("autoinstall")).unwrap();
        let BadTemplates(problems) = load(Some(dir.path())).err().unwrap();
        let told: Vec<String> = problems
            .iter()
            .map(|problem| problem.replace(&format!("{}/", dir.path().display()), ""))
            .collect();
        assert_eq!(
            told,
            [
                "autoinstall: cannot be read: No such file or directory (os error 2)",
                "cloud-config:1: the first line has to be `#cloud-config`: cloud-init looks for it",
                "cloud-config:1: unknown name \"tokn\": there are metadata_url, status_url, \
                 system_id, consumer_key, token_key, token_secret",
                "cloud-config:2: `{{` is not closed on its line",
                "cloud-config.bak: it overrides no template: a preseed format is one of \
                 cloud-config, cloud-cfg-d, cmdline, curtin, debconf, autoinstall, curl",
                "cmdline:2: kernel arguments are one line",
                "cmdline:1: unknown name \"token_secret\": there are claim_url",
                "curtin: cannot be read: it is no file",
                "debconf: cannot be read: line 2 is not UTF-8",
            ]
        );
        let missing = load(Some(&dir.path().join("none"))).err().unwrap();
        assert!(missing.0[0].contains("none: cannot be read"), "{missing}");
    }
}
