# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges that see all completions of a prompt at once. The questions to those on a server are in `prompts/`."""
