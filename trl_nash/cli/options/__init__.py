# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The options of the training commands: as data, as one parser, as they are typed; and what is refused of them."""
