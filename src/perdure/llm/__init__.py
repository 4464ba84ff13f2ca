"""Model access: one port (`driver`) and one driver per wire protocol."""
