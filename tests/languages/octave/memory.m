kept = {};
while true
  kept{end + 1} = rand(300);
end
