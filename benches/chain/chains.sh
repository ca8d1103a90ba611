# The chains of `run` and `profile`, and what they share. To be sourced by either, from this directory.
#
# Each chain is: wrk -> outbound proxy -> mutual TLS 1.3 -> inbound proxy, which checks the client's SPIFFE ID, the method
# and the path -> nginx, 1 KiB. Both proxies share core 1, wrk and nginx core 0.
here=$PWD
heddle=${HEDDLE:-$here/../../target/release/heddle}
dir=$(mktemp -d)
chmod 711 "$dir" # nginx serves a page from it as another user
children=()
trap 'kill "${children[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$dir"' EXIT
declare -A processes addresses

start() { # start CORE LOG COMMAND...
  # No function between: the process of `$!` is the command itself, whose CPU is counted.
  taskset -c "$1" "${@:3}" >"$dir/$2.log" 2>&1 &
  children+=($!)
  last=$!
}
listening() {
  local deadline=$((SECONDS + 10))
  until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do
    ((SECONDS < deadline)) || { echo "nothing listens at $1:$2" >&2; tail -n 20 "$dir"/*.log >&2; exit 1; }
  done
}

backend() {
  mkdir -p "$dir/www"
  head -c 1024 /dev/zero | tr '\0' x >"$dir/www/page"
  cat >"$dir/nginx.conf" <<CONF
worker_processes 1; daemon off; pid $dir/nginx.pid; error_log $dir/nginx.err;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; root $dir/www; default_type text/plain;
  client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3; uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
  server { listen 127.0.0.9:8080; listen 127.0.0.11:8080; listen 127.0.0.13:8080; listen 127.0.0.15:8080; listen 127.0.0.17:8080; }
}
CONF
  start 0 nginx nginx -c "$dir/nginx.conf"
  listening 127.0.0.9 8080
}

# Each chain: sets `out` to the outbound address, `pids` to the two proxies.
heddle_chain() { heddle_pair heddle 8 9 ''; }
# What the access log and tracing add: every request with a line on each side; headers rewritten, and no span; every
# request with two spans, for a collector that is not there.
heddle_log_chain() { heddle_pair heddle_log 10 11 ', accessLog: all'; }
heddle_trace0_chain() { heddle_pair heddle_trace0 12 13 ', tracing: {endpoint: "http://127.0.0.1:1", protocol: grpc, samplesPerMillion: 0}'; }
heddle_trace1_chain() { heddle_pair heddle_trace1 14 15 ', tracing: {endpoint: "http://127.0.0.1:1", protocol: grpc, samplesPerMillion: 1000000}'; }
# Without the counting of requests: a build of its own, made by
#   cargo build --release --features uncounted --target-dir target/uncounted
heddle_uncounted_chain() { local heddle=$here/../../target/uncounted/release/heddle; heddle_pair heddle_uncounted 16 17 ''; }

heddle_pair() { # heddle_pair NAME CLIENT SERVER SETTINGS: the last bytes of both addresses, and more settings
  local name=$1 client=127.0.0.$2 server=127.0.0.$3 more=$4
  cat >"$dir/$name-out.yaml" <<YAML
settings: {pod: bench/client, identity: "spiffe://cluster.local/ns/bench/sa/client", clusterDomain: cluster.local$more}
services:
  - name: bench/server
    addresses: [10.96.0.1]
    ports:
      - port: 8080
        protocol: http
        endpoints:
          - {address: "$server:8080", pod: bench/server, identity: "spiffe://cluster.local/ns/bench/sa/server"}
YAML
  cat >"$dir/$name-in.yaml" <<YAML
settings: {pod: bench/server, identity: "spiffe://cluster.local/ns/bench/sa/server", clusterDomain: cluster.local$more}
inbound:
  mode: enforce
  ports: [{port: 8080, protocol: http}]
  authorizations:
    - origin: {kind: TrafficTarget, namespace: bench, name: server}
      sources:
        - {identity: "spiffe://cluster.local/ns/bench/sa/client", origin: {kind: TrafficTarget, namespace: bench, name: server}}
      http:
        - {origin: {kind: HTTPRouteGroup, namespace: bench, name: server}, path: "/page", methods: [GET]}
YAML
  local identity=(--trust-bundle "$dir/ca.crt" --capture explicit --workers 1)
  start 1 "$name-out" "$heddle" --log warn proxy --config "$dir/$name-out.yaml" --pod-ip "$client" \
    --svid-cert "$dir/client.crt" --svid-key "$dir/client.key" "${identity[@]}" --env-listen "bench/server:8080=$client:10001"
  pids=$last
  start 1 "$name-in" "$heddle" --log warn proxy --config "$dir/$name-in.yaml" --pod-ip "$server" \
    --svid-cert "$dir/server.crt" --svid-key "$dir/server.key" "${identity[@]}"
  pids="$pids $last" out=$client:10001
  listening "$client" 10001
  listening "$server" 15008
}

haproxy_chain() {
  local common="global
  nbthread 1
  stats socket $dir/\$WHO.sock
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always"
  cat >"$dir/haproxy-out.cfg" <<CFG
${common//\$WHO/out}
frontend out
  bind 127.0.0.2:10001
  default_backend mesh
backend mesh
  server s 127.0.0.3:15008 ssl crt $dir/client.pem ca-file $dir/ca.crt verify required alpn h2 ssl-min-ver TLSv1.3
CFG
  cat >"$dir/haproxy-in.cfg" <<CFG
${common//\$WHO/in}
frontend in
  bind 127.0.0.3:15008 ssl crt $dir/server.pem ca-file $dir/ca.crt verify required alpn h2 ssl-min-ver TLSv1.3
  http-request deny unless { ssl_c_used } METH_GET { path_reg ^/page }
  default_backend app
backend app
  server s 127.0.0.9:8080
CFG
  start 1 haproxy-in haproxy -db -f "$dir/haproxy-in.cfg"
  pids=$last
  start 1 haproxy-out haproxy -db -f "$dir/haproxy-out.cfg"
  pids="$pids $last" out=127.0.0.2:10001
  listening 127.0.0.2 10001
}

envoy_chain() {
  for who in out in; do sed "s#@DIR@#$dir#g" "$here/envoy-$who.yaml" >"$dir/envoy-$who.yaml"; done
  start 1 envoy-in envoy -c "$dir/envoy-in.yaml" --concurrency 1 --base-id 41 -l warn
  pids=$last
  start 1 envoy-out envoy -c "$dir/envoy-out.yaml" --concurrency 1 --base-id 42 -l warn
  pids="$pids $last" out=127.0.0.4:10001
  listening 127.0.0.4 10001
  listening 127.0.0.5 15008
}

# Starts a chain, sees that it serves and denies, and warms it up.
begin() { # begin CHAIN
  local code
  "$1_chain"
  processes[$1]=$pids addresses[$1]=$out
  code=$(curl -s -o "$dir/answer" -w "%{http_code}" "http://$out/page")
  [ "$code" = 200 ] || { echo "$1 answers $code: $(cat "$dir/answer")" >&2; tail -n 20 "$dir/$1"*.log >&2; exit 1; }
  [ "$(curl -s -o /dev/null -w '%{http_code}' -X POST "http://$out/page")" = 403 ] || { echo "$1 does not deny" >&2; exit 1; }
  taskset -c 0 wrk -t1 -c32 -d2s "http://$out/page" >/dev/null
}

../certificates "$dir" client server
backend
