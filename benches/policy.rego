# What Durward decides in the benchmark, for OPA-Envoy.
package durward.bench

import rego.v1

default allow := false

http := input.attributes.request.http

claims := payload if {
	[scheme, token] := split(http.headers.authorization, " ")
	scheme == "Bearer"
	[valid, _, payload] := io.jwt.decode_verify(token, {
		"cert": `JWKS`,
		"iss": "https://id.example",
		"aud": "orders-api",
		"alg": "RS256",
	})
	valid
}

allow if {
	http.method == "GET"
	glob.match("/orders/*", ["/"], http.path)
	"orders.read" in split(claims.scope, " ")
}
