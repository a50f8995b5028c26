package oci

func featureRules() []rule { return nil }
