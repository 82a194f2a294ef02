"""Where the README's figures come from: each script measures one claim and writes its result."""
