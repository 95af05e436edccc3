"""Everything that extends PEFT: types it does not know, and prompts it does not run by itself."""
