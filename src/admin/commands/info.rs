use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::{Reply, facts_text};
use crate::admin::{AdminState, Facts};

pub(super) static INFO: Definition = Definition {
    name: "INFO",
    syntax: "INFO [section ...]",
    summary: "Show the facts of PROXY INFO, always as text",
    help: "Without a section it shows all of them. It tells of this proxy; the INFO of its clients' port tells of the \
           cluster.",
    since: "0.1.0",
    role: Role::Viewer,
    parse,
};

fn parse(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let sections = Sections::parse(arguments);
    Ok(Handler::now(move |_, state| Reply::Text(facts_text(&sections.choose(state)))))
}

/// Which sections were asked for, in lower case; none is all.
pub(super) struct Sections(Vec<String>);

impl Sections {
    pub fn parse(arguments: &[&[u8]]) -> Self {
        let names: Vec<String> = arguments.iter().map(|name| shown(name).to_lowercase()).collect();
        // Redis's words for more than one section.
        let all = names.iter().any(|name| ["all", "default", "everything"].contains(&name.as_str()));
        Self(if all { Vec::new() } else { names })
    }

    pub fn choose(&self, state: &AdminState) -> Facts {
        let mut facts = (state.info)();
        facts.retain(|(title, _)| self.0.is_empty() || self.0.contains(&title.to_lowercase()));
        facts
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::definition::tests::{check, check3};

    #[test]
    fn info() {
        let server = "# Server\r\nkeyway_version:0.1.0\r\nworkers:2\r\n";
        let clients = "# Clients\r\nconnected_clients:7\r\n";
        let both = format!("{server}\r\n{clients}");
        check("INFO", &format!("${}\r\n{both}\r\n", both.len()));
        check("info ALL", &format!("${}\r\n{both}\r\n", both.len()));
        check("INFO Clients", &format!("${}\r\n{clients}\r\n", clients.len()));
        check("INFO clients server", &format!("${}\r\n{both}\r\n", both.len()));
        check("INFO nothing", "$0\r\n\r\n");
        check3("INFO clients", &format!("={}\r\ntxt:{clients}\r\n", clients.len() + 4));
    }
}
