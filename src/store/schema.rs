//! The tables as diesel sees them. The migrations decide; a test compares the two backends.

diesel::table! {
    meta (name) {
        name -> Text,
        value -> Binary,
    }
}

diesel::table! {
    projects (id) {
        id -> Binary,
        name -> Text,
        name_folded -> Text,
        description -> Nullable<Text>,
        enabled -> Bool,
    }
}

diesel::table! {
    users (id) {
        id -> Binary,
        name -> Text,
        enabled -> Bool,
        name_folded -> Text,
        email -> Nullable<Text>,
        default_project -> Nullable<Binary>,
        password_hash -> Nullable<Text>,
    }
}

diesel::table! {
    grants (user_id, project_id, role) {
        user_id -> Binary,
        project_id -> Binary,
        role -> Text,
    }
}

diesel::table! {
    operator_tokens (hash) {
        hash -> Binary,
        audit_id -> Text,
        user_id -> Binary,
        project_id -> Nullable<Binary>,
        issued_at -> BigInt,
        expires_at -> BigInt,
    }
}

diesel::table! {
    nodes (system_id) {
        system_id -> Text,
        project_id -> Binary,
        hostname -> Text,
        hostname_folded -> Text,
        macs -> Text,
        ssh_keys -> Text,
        labels -> Text,
        netboot -> Bool,
        reprovisions -> Integer,
        created_at -> BigInt,
    }
}

diesel::table! {
    node_labels (system_id, name) {
        name -> Text,
        value -> Text,
        system_id -> Text,
    }
}

diesel::table! {
    consumers (id) {
        id -> Binary,
        user_id -> Binary,
        consumer_key -> Text,
    }
}

diesel::table! {
    tokens (id) {
        id -> Binary,
        token_key -> Text,
        sealed_secret -> Binary,
        made_for -> Nullable<Text>,
        created_at -> BigInt,
        last_used_at -> Nullable<BigInt>,
        ended_at -> Nullable<BigInt>,
        ended_by -> Nullable<Text>,
    }
}

diesel::table! {
    node_keys (token_id) {
        token_id -> Binary,
        system_id -> Text,
        state -> Text,
        retires_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    blobs (sha256) {
        sha256 -> Binary,
        bytes -> Binary,
    }
}

diesel::table! {
    contents (system_id, kind, version) {
        system_id -> Text,
        kind -> Text,
        version -> Integer,
        sha256 -> Nullable<Binary>,
        size -> BigInt,
        created_at -> BigInt,
    }
}

diesel::table! {
    boots (system_id) {
        system_id -> Text,
        fold -> Text,
        state -> Text,
        stage -> Text,
        since -> BigInt,
        fails_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    audit (seq) {
        seq -> BigInt,
        at -> BigInt,
        actor -> Text,
        verb -> Text,
        object -> Text,
        outcome -> Text,
        detail -> Text,
        request_id -> Text,
        mac -> Binary,
    }
}

diesel::table! {
    audit_head (id) {
        id -> Integer,
        base -> BigInt,
        base_mac -> Binary,
        count -> BigInt,
        mac -> Binary,
        seal -> Binary,
    }
}

diesel::table! {
    events (id) {
        id -> Binary,
        system_id -> Text,
        token_id -> Binary,
        origin -> Text,
        name -> Text,
        event_type -> Text,
        result -> Nullable<Text>,
        description -> Text,
        node_time -> Nullable<BigInt>,
        received_at -> BigInt,
        extra -> Text,
        repeat_of -> Nullable<Binary>,
    }
}

diesel::table! {
    event_files (event_id, ordinal) {
        event_id -> Binary,
        ordinal -> Integer,
        path -> Text,
        sha256 -> Nullable<Binary>,
        size -> BigInt,
    }
}

diesel::table! {
    node_nonces (digest) {
        digest -> Binary,
        timestamp -> BigInt,
    }
}

diesel::table! {
    claims (hash) {
        hash -> Binary,
        system_id -> Text,
        token_id -> Binary,
        format -> Text,
        source_network -> Nullable<Text>,
        made_at -> BigInt,
        expires_at -> BigInt,
        first_fetched_at -> Nullable<BigInt>,
        bound_to -> Nullable<Text>,
        fetches -> Integer,
        closed_at -> Nullable<BigInt>,
        closed_by -> Nullable<Text>,
    }
}

diesel::table! {
    changes (seq) {
        seq -> BigInt,
        token_key -> Text,
        tx -> BigInt,
    }
}

diesel::joinable!(grants -> users (user_id));
diesel::joinable!(grants -> projects (project_id));
diesel::joinable!(operator_tokens -> users (user_id));
diesel::joinable!(operator_tokens -> projects (project_id));
diesel::joinable!(nodes -> projects (project_id));
diesel::joinable!(tokens -> consumers (id));
diesel::joinable!(node_keys -> tokens (token_id));
diesel::joinable!(node_keys -> nodes (system_id));
diesel::joinable!(contents -> blobs (sha256));
diesel::joinable!(boots -> nodes (system_id));
diesel::joinable!(events -> nodes (system_id));
diesel::joinable!(event_files -> events (event_id));
diesel::joinable!(event_files -> blobs (sha256));
diesel::allow_tables_to_appear_in_same_query!(
    projects,
    users,
    grants,
    operator_tokens,
    nodes,
    node_labels,
    consumers,
    tokens,
    node_keys,
    blobs,
    contents,
    boots,
    events,
    event_files,
    node_nonces
);
