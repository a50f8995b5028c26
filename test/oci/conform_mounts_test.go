package oci

func mountRules() []rule { return nil }
