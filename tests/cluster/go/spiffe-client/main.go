// Command spiffe-client is a workload as the SPIFFE project means it: all that it knows is the socket in
// SPIFFE_ENDPOINT_SOCKET.
//
//	fetch            print ID and end of each X509-SVID
//	watch            print the serial number of each certificate that comes, until killed
//	jwt AUDIENCE     fetch a JWT-SVID, validate it by the bundle and by the Workload API, print its subject
//	validate AUDIENCE TOKEN
//	serve ADDRESS    answer mutual TLS with the caller's ID
//	call URL ID      call a server that has to be ID, print its answer
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say fetch, watch, jwt, validate, serve or call")
	}
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	switch args[0] {
	case "fetch":
		found, err := client.FetchX509Context(ctx)
		if err != nil {
			return err
		}
		for _, svid := range found.SVIDs {
			if _, err := found.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain()); err != nil {
				return err
			}
			fmt.Println(svid.ID, svid.Certificates[0].NotAfter.Unix(), svid.Hint)
		}
		return nil
	case "watch":
		return client.WatchX509Context(ctx, watcher{})
	case "jwt":
		svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: args[1]})
		if err != nil {
			return err
		}
		bundles, err := client.FetchJWTBundles(ctx)
		if err != nil {
			return err
		}
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{args[1]}); err != nil {
			return err
		}
		if _, err := client.ValidateJWTSVID(ctx, svid.Marshal(), args[1]); err != nil {
			return err
		}
		fmt.Println(svid.ID, svid.Marshal())
		return nil
	case "validate":
		svid, err := client.ValidateJWTSVID(ctx, args[2], args[1])
		if err != nil {
			return err
		}
		fmt.Println(svid.ID)
		return nil
	case "serve":
		source, err := workloadapi.NewX509Source(ctx)
		if err != nil {
			return err
		}
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.TLS.PeerCertificates[0].URIs[0])
		})
		authorize := tlsconfig.AuthorizeMemberOf(spiffeid.RequireTrustDomainFromString(args[2]))
		server := http.Server{Addr: args[1], Handler: handler, TLSConfig: tlsconfig.MTLSServerConfig(source, source, authorize)}
		return server.ListenAndServeTLS("", "")
	case "call":
		source, err := workloadapi.NewX509Source(ctx)
		if err != nil {
			return err
		}
		authorize := tlsconfig.AuthorizeID(spiffeid.RequireFromString(args[2]))
		config := tlsconfig.MTLSClientConfig(source, source, authorize)
		answer, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config}}).Get(args[1])
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(os.Stdout, answer.Body)
		return err
	}
	return fmt.Errorf("unknown command %q", args[0])
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(context *workloadapi.X509Context) {
	fmt.Println(context.DefaultSVID().Certificates[0].SerialNumber)
}

func (watcher) OnX509ContextWatchError(err error) {
	fmt.Fprintln(os.Stderr, err)
}
