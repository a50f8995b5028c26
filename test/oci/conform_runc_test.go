package oci

// runcReasons say which further rules runc 1.1.5 does not keep, and why.
var runcReasons = map[string]string{}
