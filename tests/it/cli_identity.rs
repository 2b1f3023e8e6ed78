//! The command line with operators: plugins, logins, users, projects and roles.
