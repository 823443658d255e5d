//! `/show/system/status` and `/show/system/properties`, which clients ask before anything else
//! (docs/protocol.md section 8).

use crate::StringMap;
use crate::record::record;

record! {
    /// Asks whether the system is usable.
    ShowSystemStatusRequest = "show_system_status_request" {
        /// Options by name.
        options: StringMap => Map,
    }
}

record! {
    /// Whether the system is usable.
    ShowSystemStatusResponse = "show_system_status_response" {
        /// JSON texts by name; clients read `system` and `ha_status`.
        status_map: StringMap => Map,
        /// Further facts by name.
        info: StringMap => Map,
    }
}

record! {
    /// Asks for the system's properties.
    ShowSystemPropertiesRequest = "show_system_properties_request" {
        /// Options by name: `properties` narrows the list.
        options: StringMap => Map,
    }
}

record! {
    /// The system's properties.
    ShowSystemPropertiesResponse = "show_system_properties_response" {
        /// Values by name, such as `version.gpudb_core_version`.
        property_map: StringMap => Map,
        /// Further facts by name.
        info: StringMap => Map,
    }
}
