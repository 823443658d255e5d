//! `/show/system/status` and `/show/system/properties`, which clients ask before anything else.

use kjob_proto::{
    ShowSystemPropertiesRequest, ShowSystemPropertiesResponse, ShowSystemStatusRequest,
    ShowSystemStatusResponse,
};

use super::Call;
use crate::options::Options;
use crate::refusal::Refusal;

pub(super) fn status(
    call: &Call<'_>,
    request: &ShowSystemStatusRequest,
) -> Result<ShowSystemStatusResponse, Refusal> {
    Options::new(&request.options, &[])?;
    if call.by.engine.store_failure().is_some() {
        call.system.fail();
    }
    Ok(call.system.status())
}

/// The option `properties` narrows the list to the names in it, separated by commas.
pub(super) fn properties(
    call: &Call<'_>,
    request: &ShowSystemPropertiesRequest,
) -> Result<ShowSystemPropertiesResponse, Refusal> {
    let options = Options::new(&request.options, &["properties"])?;
    let wanted = options.text("properties");
    let nodes = call.by.engine.nodes();
    let wanted = wanted.map(|names| names.as_str());
    Ok(call.system.properties_among(&nodes, wanted))
}
