//! What `wit-bindgen` makes of `wit/policy.wit`.

wit_bindgen::generate!({
    path: "../wit",
    world: "policy",
    pub_export_macro: true,
    export_macro_name: "export_bindings",
    default_bindings_module: "sluicegate_plugin_sdk::bindings",
    runtime_path: "::sluicegate_plugin_sdk::wit_bindgen::rt",
    additional_derives: [PartialEq, Eq, Default],
});
