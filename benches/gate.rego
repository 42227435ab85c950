# What Durward decides in the benchmark of the gate, for OPA-Envoy: who by certificate, and what.
package durward.bench

import rego.v1

default allow := false

http := input.attributes.request.http

allow if {
	input.attributes.source.principal == "spiffe://cluster.local/ns/shop/sa/web"
	http.method == "GET"
	glob.match("/orders/*", ["/"], http.path)
}
