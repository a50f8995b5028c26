package oci

func configRules() []rule { return nil }
