"""Launch profiles of real systems, as data: a run on a GPU is another profile, not other code."""

from ftharness.stack.profiles.profile import Device, Profile, RoleOf, find_profile, shipped_profiles

__all__ = ["Device", "Profile", "RoleOf", "find_profile", "shipped_profiles"]
