# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges that are rewards: of functions, of models here or behind a server, and those that a policy implies."""
