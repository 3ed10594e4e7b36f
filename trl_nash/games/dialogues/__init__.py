# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Games whose answers are dialogues: what may be said, equilibria in sequence form, and how methods are fitted."""
